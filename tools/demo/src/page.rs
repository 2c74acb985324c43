//! The page: the drawing, the comparison, what the breakers did, the policy. One file, nothing from elsewhere.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::answer::Fate;
use crate::claims::Claim;
use crate::recording::{Recording, Runs};
use crate::scene::Scene;
use crate::stage::WORKERS;
use crate::{chart, summary, words};

/// The whole page.
pub fn render(scene: &Scene, runs: Runs<'_>, claims: &[Claim], envoy_version: &str) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Holdfast demo: " (scene.title) }
                style { (PreEscaped(include_str!("page.css"))) }
            }
            body {
                main {
                    h1 { "Holdfast: " (scene.title) }
                    p class="soft" {
                        "A real Envoy " (envoy_version) " with " (WORKERS) " workers, "
                        (words::plural(scene.hosts, "server")) " of the service " (scene.service) ", "
                        (words::load(scene)) ". " (words::course(scene)) "."
                    }
                    (broken(claims))
                    p class="said" { (summary::sentences(scene, runs)) }
                    h2 { "What clients got, second by second" }
                    (chart::legend())
                    div class="chart" { (chart::render(scene, runs)) }
                    p class="soft" { (scene.remark) }
                    (comparison(scene, runs))
                    (changes(runs.with))
                    (policy(scene))
                    (numbers(scene, runs))
                    (checked(claims))
                }
            }
        }
    };
    page.into_string()
}

fn broken(claims: &[Claim]) -> Markup {
    let broken: Vec<&Claim> = claims.iter().filter(|claim| !claim.holds).collect();
    html! {
        @if !broken.is_empty() {
            div class="warning" role="alert" {
                strong { "This run did not show what it is for. Not so:" }
                ul { @for claim in broken { li { (claim.what) " (" (claim.seen) ")" } } }
            }
        }
    }
}

fn comparison(scene: &Scene, runs: Runs<'_>) -> Markup {
    html! {
        h2 { "What the outage cost" }
        div class="scroll" {
            table {
                thead { tr { th {} th scope="col" { "with Holdfast" } th scope="col" { "without Holdfast" } } }
                tbody {
                    @for table in summary::tables(scene, runs) {
                        tr class="group" { th scope="rowgroup" colspan="3" { (table.title) } }
                        @for row in table.rows {
                            tr {
                                th scope="row" class=[row.is_part.then_some("part")] { (row.what) }
                                td class="figure" { (row.with) }
                                td class="figure" { (row.without) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn changes(with: &Recording) -> Markup {
    html! {
        h2 { "What the breakers did" }
        div class="scroll" {
            table class="changes" {
                thead {
                    tr { th scope="col" { "at" } th scope="col" { "breaker" } th scope="col" { "change" } th scope="col" { "why" } }
                }
                tbody {
                    @for change in &with.changes {
                        tr {
                            td { (words::seconds(change.at)) }
                            td { (change.policy) }
                            td { (change.from.word()) " → " (change.to.word()) }
                            td { (change.why) }
                        }
                    }
                }
            }
        }
    }
}

fn policy(scene: &Scene) -> Markup {
    html! {
        h2 { "The policy" }
        p { (capitalized(scene.policy_in_words)) "." }
        pre { code { (scene.policy) } }
    }
}

fn numbers(scene: &Scene, runs: Runs<'_>) -> Markup {
    html! {
        h2 { "The numbers" }
        p { "Every request counts in the second in which it was sent." }
        @for (title, recording) in [("With Holdfast", runs.with), ("Without Holdfast", runs.without)] {
            details {
                summary { (title) ", second by second" }
                div class="scroll" {
                    table {
                        thead {
                            tr {
                                th scope="col" { "second" }
                                @for fate in Fate::ALL { th scope="col" { (fate.word()) } }
                                th scope="col" { "reached " (scene.service) }
                                th scope="col" { "median wait" }
                                th scope="col" { "p99 wait" }
                            }
                        }
                        tbody {
                            @for second in 0..scene.seconds() {
                                @let tally = recording.second(second);
                                tr {
                                    th scope="row" { (second + 1) }
                                    @for fate in Fate::ALL { td { (tally.count(fate)) } }
                                    td { (recording.arrived(second..second + 1)) }
                                    td { (words::wait(tally.wait(50))) }
                                    td { (words::wait(tally.wait(99))) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn checked(claims: &[Claim]) -> Markup {
    html! {
        details {
            summary { "What was checked" }
            ul { @for claim in claims { li { @if !claim.holds { strong { "Not so: " } } (claim.what) " (" (claim.seen) ")" } } }
        }
    }
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{scene, test_data};

    fn page(with_holdfast: bool) -> String {
        let scene = scene::all().remove(0);
        let (with, without) = (test_data::run(&scene, with_holdfast), test_data::run(&scene, false));
        let runs = Runs { with: &with, without: &without };
        render(&scene, runs, &(scene.claims)(&scene, runs), "1.2.3")
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        let page = page(true);
        for part in ["<script", "src=", "<link", "http:", "https:", "@import"] {
            assert!(!page.contains(part), "{part}");
        }
        assert!(page.contains("prefers-color-scheme: dark"));
    }

    #[test]
    fn the_page_tells_the_whole_run() {
        let page = page(true);
        for part in
            ["Envoy 1.2.3", "<svg", "What the outage cost", "closed → open", "&quot;min_requests&quot;: 20", "700"]
        {
            assert!(page.contains(part), "{part}");
        }
        assert!(page.contains("made up, open &lt;ok&gt; &amp; &quot;fine&quot;"), "what others wrote is escaped");
        assert!(!page.contains("did not show"), "a good run is not complained about");
    }

    #[test]
    fn a_run_that_did_not_show_it_says_so_at_the_top() {
        let page = page(false);
        let warning = page.find("did not show what it is for").unwrap();
        assert!(warning < page.find("<svg").unwrap());
    }
}
