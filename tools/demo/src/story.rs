//! The story on the terminal: what will be run, each run second by second, and the comparison.

use std::io::{self, Write};
use std::time::Duration;

use anstyle::{AnsiColor, Style};

use crate::answer::Fate;
use crate::change::{Change, State};
use crate::claims::Claim;
use crate::perform::{Event, Moment};
use crate::recording::{Recording, Runs, Tally};
use crate::scene::{Kind, Scene};
use crate::stage::WORKERS;
use crate::{summary, words};

/// How wide a line gets.
const WIDTH: usize = 91;

/// How wide a fleeting line gets.
const FLEETING: usize = 70;

/// How wide the column of a breaker's state is.
const BREAKER_WIDTH: usize = 11;

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();

/// How much of a run is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// A line for each second and each change.
    Seconds,
    /// A line for each phase.
    Phases,
}

/// Tells the story. Styles are always written: the output strips them where nobody would see them.
pub struct Story<'a, W> {
    scene: &'a Scene,
    out: W,
    /// Whether a line may be shown for a moment and then overwritten.
    fleeting: bool,
}

impl<'a, W: Write> Story<'a, W> {
    /// Tells of `scene` on `out`; `fleeting` when that is a terminal.
    pub fn new(scene: &'a Scene, out: W, fleeting: bool) -> Self {
        Story { scene, out, fleeting }
    }

    /// The first line, before anything is started.
    pub fn title(&mut self) -> io::Result<()> {
        writeln!(self.out, "{}", paint(BOLD, &format!("Holdfast demo: {}", self.scene.title)))
    }

    /// What will be run.
    pub fn introduction(&mut self, envoy_version: &str) -> io::Result<()> {
        let scene = self.scene;
        let servers = words::plural(scene.hosts, "server");
        let stage = format!(
            "Envoy {envoy_version} with {WORKERS} workers, and {servers} of the service {}, on loopback",
            scene.service
        );
        self.item("Stage", &stage)?;
        self.item("Load", &format!("{}, whatever the answers", words::load(scene)))?;
        self.item("Policy", scene.policy_in_words)?;
        let seconds = 2 * scene.seconds();
        self.item("Course", &format!("{}: with Holdfast, then without; {seconds} s", words::course(scene)))
    }

    /// The heading of a run, and of its columns.
    pub fn run_begins(&mut self, title: &str, detail: Detail) -> io::Result<()> {
        writeln!(self.out, "\n{}", paint(BOLD, title))?;
        let (what, time) = match detail {
            Detail::Seconds => ("  of the requests sent in that second:", "time"),
            Detail::Phases => ("  of the requests sent in that phase:", "until"),
        };
        let mut over = format!("{what:<41}{:>9}{:>18}", "reached", "clients waited");
        let mut header = format!(
            "{time:>7}{:>6}{:>10}{:>10}{:>8}{:>9}{:>9}{:>9}",
            Fate::Served.word(),
            Fate::Fallback.word(),
            Fate::Rejected.word(),
            Fate::Failed.word(),
            self.scene.service,
            "median",
            "p99",
        );
        if detail == Detail::Seconds {
            over.push_str("   breaker of");
            header.push_str(&self.breaker_cells(|policy| (policy.to_owned(), Style::new())));
        }
        writeln!(self.out, "{}\n{}", paint(DIM, &over), paint(DIM, &header))
    }

    /// The next thing that happened in a run.
    pub fn tell(&mut self, moment: &Moment, recording: &Recording, detail: Detail) -> io::Result<()> {
        match moment {
            Moment::Event(Event::Phase(number)) => self.phase(*number),
            Moment::Event(Event::Change(change)) if detail == Detail::Seconds => self.change(change),
            Moment::Event(Event::Change(_)) => Ok(()),
            Moment::Second(second) => match detail {
                Detail::Seconds => self.second(*second, recording),
                Detail::Phases => self.second_in_brief(*second, recording),
            },
        }
    }

    /// The comparison of both runs.
    pub fn comparison(&mut self, runs: Runs<'_>) -> io::Result<()> {
        let heading = format!("{:<54}{:>14}{:>18}", "What the outage cost", "with Holdfast", "without Holdfast");
        writeln!(self.out, "\n{}", paint(BOLD, &heading))?;
        for table in summary::tables(self.scene, runs) {
            writeln!(self.out, "  {}", paint(BOLD, &table.title))?;
            for row in table.rows {
                let what = format!("{}{}", if row.is_part { "  " } else { "" }, row.what);
                writeln!(self.out, "    {what:<50}{:>14}{:>18}", row.with, row.without)?;
            }
        }
        let said = format!("What you saw: {}", summary::sentences(self.scene, runs));
        writeln!(self.out, "\n{}", wrap(&said, "", ""))
    }

    /// Whether what was shown is what should have been.
    pub fn verdict(&mut self, claims: &[Claim]) -> io::Result<()> {
        let broken: Vec<&Claim> = claims.iter().filter(|claim| !claim.holds).collect();
        if broken.is_empty() {
            let said = format!(
                "Checked: {} statements about these runs hold, among them that Envoy's own statistics agree with what \
                 the clients counted.",
                claims.len()
            );
            return writeln!(self.out, "\n{}", wrap(&said, "", ""));
        }
        let head = "This demo did not show what it is for:";
        writeln!(self.out, "\n{}", paint(AnsiColor::Red.on_default().bold(), head))?;
        for claim in broken {
            writeln!(self.out, "{}", wrap(&format!("not so: {} ({})", claim.what, claim.seen), "  ", "    "))?;
        }
        Ok(())
    }

    /// A last word.
    pub fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{text}")
    }

    fn item(&mut self, name: &str, text: &str) -> io::Result<()> {
        writeln!(self.out, "{}", wrap(text, &format!("  {name:<8}"), "          "))
    }

    fn phase(&mut self, number: usize) -> io::Result<()> {
        let Some((phase, span)) = self.scene.spans().nth(number) else { return Ok(()) };
        let style = match phase.kind {
            Kind::Healthy | Kind::Recovery => BOLD,
            Kind::Outage => AnsiColor::Red.on_default().bold(),
        };
        let told = format!("{:>5} s  {}: {}", span.start, phase.kind.word().to_uppercase(), phase.told);
        self.clear()?;
        if number > 0 {
            writeln!(self.out)?;
        }
        writeln!(self.out, "{}", paint(style, &told))
    }

    fn change(&mut self, change: &Change) -> io::Result<()> {
        let at = words::seconds(change.at);
        let to = paint(state_style(change.to).bold(), &format!("{} -> {}", change.from.word(), change.to.word()));
        writeln!(self.out, "{at:>7}  > {}: {to}: {}", change.policy, change.why)
    }

    fn second(&mut self, second: u32, recording: &Recording) -> io::Result<()> {
        let end = Duration::from_secs(u64::from(second) + 1);
        let breakers = self.breaker_cells(|policy| {
            let state = recording.state(policy, end);
            (state.word().to_owned(), state_style(state))
        });
        let arrived = recording.arrived(second..second + 1);
        let columns = columns(&recording.second(second), arrived);
        writeln!(self.out, "{:>5} s{columns}{breakers}", second + 1)
    }

    fn second_in_brief(&mut self, second: u32, recording: &Recording) -> io::Result<()> {
        let Some((_, span)) = self.scene.spans().find(|(_, span)| span.contains(&second)) else { return Ok(()) };
        self.clear()?;
        if second + 1 == span.end {
            let columns = columns(&recording.tally(span.clone()), recording.arrived(span));
            return writeln!(self.out, "{:>5} s{columns}", second + 1);
        }
        if self.fleeting {
            let columns = columns(&recording.second(second), recording.arrived(second..second + 1));
            write!(self.out, "{:>5} s{columns}", second + 1)?;
        }
        self.out.flush()
    }

    /// Takes a fleeting line away.
    fn clear(&mut self) -> io::Result<()> {
        // With blanks: an escape sequence would be stripped together with the colours.
        if self.fleeting { write!(self.out, "\r{:FLEETING$}\r", "") } else { Ok(()) }
    }

    /// A cell for each policy's breaker, side by side, without blanks at the end.
    fn breaker_cells(&self, cell: impl Fn(&str) -> (String, Style)) -> String {
        let mut cells = String::new();
        let mut gap = 3;
        for policy in self.scene.policies() {
            let (text, style) = cell(policy);
            cells.push_str(&" ".repeat(gap));
            cells.push_str(&paint(style, &text));
            gap = BREAKER_WIDTH.saturating_sub(text.len()).max(1);
        }
        cells
    }
}

/// The counts and waits of some requests.
fn columns(tally: &Tally, arrived: u64) -> String {
    let cell = |fate, width| {
        let count = tally.count(fate);
        let style = if count == 0 { DIM } else { fate_style(fate) };
        paint(style, &format!("{:>width$}", words::count(count)))
    };
    let arrived = words::count(u32::try_from(arrived).unwrap_or(u32::MAX));
    [
        cell(Fate::Served, 6),
        cell(Fate::Fallback, 10),
        cell(Fate::Rejected, 10),
        cell(Fate::Failed, 8),
        format!("{arrived:>9}{:>9}{:>9}", words::wait(tally.wait(50)), words::wait(tally.wait(99))),
    ]
    .concat()
}

fn fate_style(fate: Fate) -> Style {
    match fate {
        Fate::Served => AnsiColor::Green.on_default(),
        Fate::Fallback => AnsiColor::Yellow.on_default(),
        Fate::Rejected => AnsiColor::Magenta.on_default(),
        Fate::Failed => AnsiColor::Red.on_default(),
    }
}

fn state_style(state: State) -> Style {
    match state {
        State::Closed => AnsiColor::Green.on_default(),
        State::HalfOpen | State::Ramping => AnsiColor::Yellow.on_default(),
        State::Open => AnsiColor::Red.on_default(),
    }
}

fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

fn wrap(text: &str, first: &str, rest: &str) -> String {
    textwrap::fill(text, textwrap::Options::new(WIDTH).initial_indent(first).subsequent_indent(rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequence::Sequence;
    use crate::{scene, test_data};

    /// Tells a made-up run, as it reads without colours.
    fn told(scene: &Scene, recording: &Recording, detail: Detail) -> String {
        let mut out = anstream::StripStream::new(Vec::new());
        let mut story = Story::new(scene, &mut out, false);
        story.title().unwrap();
        story.introduction("1.2.3").unwrap();
        story.run_begins("Run", detail).unwrap();
        let mut sequence = Sequence::new();
        let mut events: Vec<(Duration, Event)> = scene
            .spans()
            .enumerate()
            .map(|(number, (_, span))| (Duration::from_secs(span.start.into()), Event::Phase(number)))
            .chain(recording.changes.iter().map(|change| (change.at, Event::Change(change.clone()))))
            .collect();
        events.sort_by_key(|(at, _)| *at);
        for (at, event) in events {
            sequence.happened(at, event);
        }
        while let Some(moment) = sequence.next(|second| second < scene.seconds()) {
            story.tell(&moment, recording, detail).unwrap();
        }
        String::from_utf8(out.into_inner()).unwrap()
    }

    #[test]
    fn lines_fit_and_columns_align() {
        for scene in scene::all() {
            let (with, without) = (test_data::run(&scene, true), test_data::run(&scene, false));
            let text = told(&scene, &with, Detail::Seconds);
            for line in text.lines() {
                assert!(line.len() <= 100, "{} columns: {line}", line.len());
                assert_eq!(line.trim_end(), line, "no blanks at the end");
            }
            let header = text.lines().find(|line| line.contains("p99")).unwrap();
            let ends = header.find("errors").unwrap() + "errors".len();
            let rows: Vec<&str> =
                text.lines().filter(|line| line.get(5..8) == Some(" s ") && !line.contains(':')).collect();
            assert_eq!(rows.len(), scene.seconds() as usize, "a row for each second:\n{text}");
            for row in rows {
                assert!(!row.get(..ends).unwrap().ends_with(' '), "errors end below their heading: {row}");
                assert!(row.get(ends..=ends).unwrap() == " ", "and a gap follows: {row}");
            }
            let mut out = anstream::StripStream::new(Vec::new());
            Story::new(&scene, &mut out, false).comparison(Runs { with: &with, without: &without }).unwrap();
            let text = String::from_utf8(out.into_inner()).unwrap();
            assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
            assert!(text.contains("What you saw:"), "{text}");
        }
    }

    #[test]
    fn the_brief_run_has_a_line_for_each_phase_and_none_for_a_change() {
        for scene in scene::all() {
            let text = told(&scene, &test_data::run(&scene, true), Detail::Phases);
            let rows = text.lines().filter(|line| line.contains(" s ") && line.contains(" ms")).count();
            assert!(rows >= scene.phases.len(), "{text}");
            assert!(!text.contains("->"), "{text}");
        }
    }

    #[test]
    fn a_broken_claim_is_said_with_its_numbers() {
        let scene = scene::all().remove(0);
        let mut out = anstream::StripStream::new(Vec::new());
        let claim = Claim { what: "the breaker opened".to_owned(), holds: false, seen: "it did not".to_owned() };
        Story::new(&scene, &mut out, false).verdict(&[claim]).unwrap();
        let text = String::from_utf8(out.into_inner()).unwrap();
        assert!(text.contains("did not show what it is for"), "{text}");
        assert!(text.contains("not so: the breaker opened (it did not)"), "{text}");
    }
}
