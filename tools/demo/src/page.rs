//! The page: for each scene the drawing, the comparison, what the breakers did, the policy. One file, nothing from
//! elsewhere.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::claims::Claim;
use crate::recording::{Recording, Runs};
use crate::scene::Scene;
use crate::stage::WORKERS;
use crate::{chart, words};

/// A scene and what came of it.
#[derive(Clone, Copy)]
pub struct Chapter<'a> {
    /// The scene.
    pub scene: &'a Scene,
    /// Both of its runs.
    pub runs: Runs<'a>,
    /// What they should have shown.
    pub claims: &'a [Claim],
}

/// The whole page.
pub fn render(chapters: &[Chapter<'_>], envoy_version: &str) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Holdfast demo" }
                style { (PreEscaped(include_str!("page.css"))) }
            }
            body {
                (chart::patterns())
                main {
                    h1 { "Holdfast: " (words::plural(chapters.len(), "story")) ", each lived through twice" }
                    p class="soft" {
                        "A real Envoy " (envoy_version) " with " (WORKERS) " workers, servers that really fail, the same \
                         load with Holdfast and without. Counted at the clients and at the servers."
                    }
                    (broken(chapters))
                    (contents(chapters))
                    @for (number, chapter) in (1..).zip(chapters) { (section(number, *chapter)) }
                }
            }
        }
    };
    page.into_string()
}

/// What to remember of each scene.
fn contents(chapters: &[Chapter<'_>]) -> Markup {
    html! {
        ol class="contents" {
            @for Chapter { scene, runs, .. } in chapters {
                li { a href=(format!("#{}", scene.name)) { (scene.title) } br; ((scene.gist)(scene, *runs)) }
            }
        }
    }
}

fn section(number: usize, Chapter { scene, runs, claims }: Chapter<'_>) -> Markup {
    html! {
        section id=(scene.name) {
            h2 { (number) ". " (scene.title) }
            p class="soft" { (words::capitalized(&words::load(scene))) " to " (words::servers(scene)) ". " (words::course(scene)) "." }
            dl class="setting" {
                dt { "With Holdfast" } dd { (words::capitalized(scene.policy_in_words)) "." }
                dt { "Without" } dd { (words::capitalized(scene.without.in_words)) "." }
            }
            p class="said" { ((scene.sentences)(scene, runs)) }
            h3 { "What happened, second by second" }
            (chart::legend(scene))
            div class="chart" { (chart::render(scene, runs)) }
            p class="soft" { (scene.remark) }
            (comparison(scene, runs))
            (changes(runs.with))
            (told(runs.with))
            (policy(scene))
            (numbers(scene, runs))
            (checked(claims))
        }
    }
}

fn broken(chapters: &[Chapter<'_>]) -> Markup {
    let broken: Vec<&Claim> = chapters.iter().flat_map(|chapter| chapter.claims).filter(|claim| !claim.holds).collect();
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
        h3 { "What it cost" }
        div class="scroll" {
            table {
                thead { tr { th {} th scope="col" { "with Holdfast" } th scope="col" { "without Holdfast" } } }
                tbody {
                    @for table in (scene.tables)(scene, runs) {
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
        @if !with.changes.is_empty() {
            h3 { "What the breakers did" }
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
}

fn told(with: &Recording) -> Markup {
    html! {
        @if !with.told.is_empty() {
            h3 { "What happened to the hosts" }
            div class="scroll" {
                table class="changes" {
                    thead { tr { th scope="col" { "at" } th scope="col" { "host" } th scope="col" { "what" } } }
                    tbody {
                        @for told in &with.told {
                            tr { td { (words::seconds(told.at)) } td { (told.host + 1) } td { (told.text) } }
                        }
                    }
                }
            }
        }
    }
}

fn policy(scene: &Scene) -> Markup {
    html! {
        h3 { "The policy" }
        pre { code { (scene.policy) } }
    }
}

fn numbers(scene: &Scene, runs: Runs<'_>) -> Markup {
    html! {
        h3 { "The numbers" }
        p { "Every request, with all its attempts, counts in the second in which it was sent." }
        @for (title, recording) in [("With Holdfast", runs.with), ("Without Holdfast", runs.without)] {
            details {
                summary { (title) ", second by second" }
                div class="scroll" {
                    table {
                        thead {
                            tr {
                                th scope="col" { "second" }
                                @for column in &scene.columns {
                                    th scope="col" { span class="soft" { (column.over()) } br; (column.head(scene.service)) }
                                }
                            }
                        }
                        tbody {
                            @for second in 0..scene.seconds() {
                                @let stretch = recording.stretch(second..second + 1);
                                tr {
                                    th scope="row" { (second + 1) }
                                    @for column in &scene.columns {
                                        td { (column.cell(&stretch)) }
                                    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{scene, test_data};

    fn page(with_holdfast: bool) -> String {
        let scenes = scene::all();
        let runs: Vec<(Recording, Recording)> =
            scenes.iter().map(|scene| (test_data::run(scene, with_holdfast), test_data::run(scene, false))).collect();
        let runs: Vec<Runs<'_>> = runs.iter().map(|(with, without)| Runs { with, without }).collect();
        let claims: Vec<Vec<Claim>> =
            scenes.iter().zip(&runs).map(|(scene, runs)| (scene.claims)(scene, *runs)).collect();
        let chapters: Vec<Chapter<'_>> = scenes
            .iter()
            .zip(runs)
            .zip(&claims)
            .map(|((scene, runs), claims)| Chapter { scene, runs, claims })
            .collect();
        render(&chapters, "1.2.3")
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
    fn the_page_tells_all_runs_one_after_another() {
        let page = page(true);
        let at = |part: &str| page.find(part).unwrap_or_else(|| panic!("{part}"));
        let order = [
            "Envoy 1.2.3",
            "href=\"#outage\"",
            "href=\"#storm\"",
            "id=\"outage\"",
            "closed → open",
            "&quot;min_requests&quot;: 20",
            "id=\"storm\"",
            "retry_on 5xx",
            "attempts for each request",
            "&quot;budget&quot;",
        ];
        assert!(order.map(at).is_sorted(), "{:?}", order.map(at));
        assert!(page.contains("made up, open &lt;ok&gt; &amp; &quot;fine&quot;"), "what others wrote is escaped");
        assert!(!page.contains("did not show"), "a good run is not complained about");
        assert_eq!(page.matches("What the breakers did").count(), 3, "three scenes have breakers");
    }

    #[test]
    fn nothing_is_called_by_the_same_id_twice() {
        let page = page(true);
        let mut ids: Vec<&str> = page.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count);
        assert!(count >= 8, "{ids:?}");
    }

    #[test]
    fn a_run_that_did_not_show_it_says_so_at_the_top() {
        let page = page(false);
        let warning = page.find("did not show what it is for").unwrap();
        assert!(warning < page.find("role=\"img\"").unwrap());
    }
}
