//! The story on the terminal: what will be run, each run second by second, the comparison, and what to remember.

use std::io::{self, Write};
use std::time::Duration;

use anstyle::{AnsiColor, Style};

use crate::answer::Fate;
use crate::change::{Change, State};
use crate::claims::Claim;
use crate::column::Column;
use crate::ejection::{Told, What};
use crate::perform::{Event, Moment};
use crate::recording::{Recording, Runs, Stretch};
use crate::scene::{Kind, Scene};
use crate::stage::WORKERS;
use crate::words;

/// How wide a line gets.
const WIDTH: usize = 91;

/// How wide the column of the time is.
const TIME_WIDTH: usize = 7;

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

/// The first lines, before anything is started.
pub fn opening(out: &mut impl Write, scenes: &[Scene]) -> io::Result<()> {
    let said = format!(
        "Holdfast demo: {} on a real Envoy, each lived through twice, with Holdfast and without",
        words::plural(scenes.len(), "story"),
    );
    let seconds: u32 = scenes.iter().map(|scene| 2 * scene.seconds()).sum();
    writeln!(out, "{}\n{}", paint(BOLD, &said), wrap(&format!("It takes about {seconds} s."), "", ""))
}

/// The last lines: what to remember of each scene, and how many claims did not hold.
pub fn closing(out: &mut impl Write, gists: &[String], broken: usize) -> io::Result<()> {
    if broken > 0 {
        let said = format!("{} of the runs above did not hold: see \"not so\".", words::plural(broken, "statement"));
        writeln!(out, "\n{}", paint(AnsiColor::Red.on_default().bold(), &said))?;
    }
    writeln!(out, "\n{}", paint(BOLD, "In short"))?;
    for (number, gist) in gists.iter().enumerate() {
        writeln!(out, "{}", wrap(gist, &format!("  {}. ", number + 1), "     "))?;
    }
    Ok(())
}

/// Tells the story of one scene. Styles are always written: the output strips them where nobody would see them.
pub struct Story<'a, W> {
    scene: &'a Scene,
    breakers: Vec<&'static str>,
    out: W,
    /// Whether a line may be shown for a moment and then overwritten.
    fleeting: bool,
}

impl<'a, W: Write> Story<'a, W> {
    /// Tells of `scene` on `out`; `fleeting` when that is a terminal.
    pub fn new(scene: &'a Scene, out: W, fleeting: bool) -> Self {
        Story { scene, breakers: scene.breakers(), out, fleeting }
    }

    /// The heading, before anything is started. Numbers begin with 1.
    pub fn title(&mut self, number: usize) -> io::Result<()> {
        writeln!(self.out, "\n{}", paint(BOLD.underline(), &format!("{number}. {}", self.scene.title)))
    }

    /// What will be run.
    pub fn introduction(&mut self, envoy_version: &str) -> io::Result<()> {
        let scene = self.scene;
        let stage = format!("Envoy {envoy_version} with {WORKERS} workers; {}; all on loopback", words::servers(scene));
        self.item("Stage", &stage)?;
        self.item("Load", &format!("{}, whatever the answers", words::load(scene)))?;
        self.item("With", &format!("Holdfast: {}", scene.policy_in_words))?;
        self.item("Without", scene.without.in_words)?;
        let seconds = 2 * scene.seconds();
        self.item("Course", &format!("{}: with Holdfast, then without; {seconds} s", words::course(scene)))
    }

    /// The heading of a run, and of its columns.
    pub fn run_begins(&mut self, title: &str, detail: Detail) -> io::Result<()> {
        let (what, time) = match detail {
            Detail::Seconds => ("a line for the requests sent in each second", "time"),
            Detail::Phases => ("the same in short, a line for the requests of each phase", "until"),
        };
        writeln!(self.out, "\n{}{}", paint(BOLD, title), paint(DIM, &format!(": {what}")))?;
        let mut over = format!("{:TIME_WIDTH$}", "");
        let mut header = format!("{time:>TIME_WIDTH$}");
        for neighbours in self.scene.columns.chunk_by(|one, other| one.over() == other.over()) {
            let width: usize = neighbours.iter().map(|column| column.width()).sum();
            let said = neighbours.first().map_or("", |column| column.over());
            over.push_str(&format!("{said:>width$}"));
            for column in neighbours {
                header.push_str(&format!("{:>width$}", column.head(self.scene.service), width = column.width()));
            }
        }
        if detail == Detail::Seconds && !self.breakers.is_empty() {
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
            Moment::Event(Event::Told(told)) if detail == Detail::Seconds => self.told(told),
            Moment::Event(Event::Change(_) | Event::Told(_)) => Ok(()),
            Moment::Second(second) => match detail {
                Detail::Seconds => self.second(*second, recording),
                Detail::Phases => self.second_in_brief(*second, recording),
            },
        }
    }

    /// The comparison of both runs.
    pub fn comparison(&mut self, runs: Runs<'_>) -> io::Result<()> {
        let heading = format!("{:<54}{:>14}{:>18}", "What it cost", "with Holdfast", "without Holdfast");
        writeln!(self.out, "\n{}", paint(BOLD, &heading))?;
        for table in (self.scene.tables)(self.scene, runs) {
            writeln!(self.out, "  {}", paint(BOLD, &table.title))?;
            for row in table.rows {
                let what = format!("{}{}", if row.is_part { "  " } else { "" }, row.what);
                writeln!(self.out, "    {what:<50}{:>14}{:>18}", row.with, row.without)?;
            }
        }
        let said = format!("What you saw: {}", (self.scene.sentences)(self.scene, runs));
        writeln!(self.out, "\n{}", wrap(&said, "", ""))
    }

    /// Whether what was shown is what should have been.
    pub fn verdict(&mut self, claims: &[Claim]) -> io::Result<()> {
        let broken: Vec<&Claim> = claims.iter().filter(|claim| !claim.holds).collect();
        if broken.is_empty() {
            let said = format!(
                "Checked: {} statements about these runs hold, among them that Envoy's own statistics agree with what \
                 was counted outside.",
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

    fn item(&mut self, name: &str, text: &str) -> io::Result<()> {
        writeln!(self.out, "{}", wrap(text, &format!("  {name:<8}"), "          "))
    }

    fn phase(&mut self, number: usize) -> io::Result<()> {
        let Some((phase, span)) = self.scene.spans().nth(number) else { return Ok(()) };
        let style = match phase.kind {
            Kind::Healthy | Kind::Recovery => BOLD,
            Kind::Outage => AnsiColor::Red.on_default().bold(),
        };
        let told = format!("{:>5} s  {}: {}", span.start, phase.name.to_uppercase(), phase.told);
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

    fn told(&mut self, told: &Told) -> io::Result<()> {
        let style = match told.what {
            What::Ejected | What::ProbeFailed => AnsiColor::Red.on_default(),
            What::Back => AnsiColor::Green.on_default(),
            What::Other => AnsiColor::Yellow.on_default(),
        };
        let said = format!("host {} {}", told.host + 1, told.text);
        let lines = wrap(&said, &format!("{:>7}  > ", words::seconds(told.at)), "           ");
        // What happened is painted, and not why.
        let (what, why) = lines.split_once(':').unwrap_or((&lines, ""));
        let (at, what) = what.split_once("> ").unwrap_or(("", what));
        writeln!(self.out, "{at}> {}{}{why}", paint(style.bold(), what), if why.is_empty() { "" } else { ":" })
    }

    fn second(&mut self, second: u32, recording: &Recording) -> io::Result<()> {
        let end = Duration::from_secs(u64::from(second) + 1);
        let breakers = self.breaker_cells(|policy| {
            let state = recording.state(policy, end);
            (state.word().to_owned(), state_style(state))
        });
        let columns = self.columns(&recording.stretch(second..second + 1));
        writeln!(self.out, "{:>5} s{columns}{breakers}", second + 1)
    }

    fn second_in_brief(&mut self, second: u32, recording: &Recording) -> io::Result<()> {
        let Some((_, span)) = self.scene.spans().find(|(_, span)| span.contains(&second)) else { return Ok(()) };
        self.clear()?;
        if second + 1 == span.end {
            let columns = self.columns(&recording.stretch(span));
            return writeln!(self.out, "{:>5} s{columns}", second + 1);
        }
        if self.fleeting {
            let columns = self.columns(&recording.stretch(second..second + 1));
            write!(self.out, "{:>5} s{columns}", second + 1)?;
        }
        self.out.flush()
    }

    /// Takes a fleeting line away.
    fn clear(&mut self) -> io::Result<()> {
        // With blanks: an escape sequence would be stripped together with the colours.
        let width = TIME_WIDTH + self.scene.columns.iter().map(|column| column.width()).sum::<usize>();
        if self.fleeting { write!(self.out, "\r{:width$}\r", "") } else { Ok(()) }
    }

    /// The cells of some requests and their attempts.
    fn columns(&self, of: &Stretch) -> String {
        let cell = |column: &Column| {
            let style = match column {
                Column::Answers(fate) if of.tally.count(*fate) == 0 => DIM,
                Column::Answers(fate) => fate_style(*fate),
                _ => Style::new(),
            };
            paint(style, &format!("{:>width$}", column.cell(of), width = column.width()))
        };
        self.scene.columns.iter().map(cell).collect()
    }

    /// A cell for each policy's breaker, side by side, without blanks at the end.
    fn breaker_cells(&self, cell: impl Fn(&str) -> (String, Style)) -> String {
        let mut cells = String::new();
        let mut gap = 3;
        for policy in &self.breakers {
            let (text, style) = cell(policy);
            cells.push_str(&" ".repeat(gap));
            cells.push_str(&paint(style, &text));
            gap = BREAKER_WIDTH.saturating_sub(text.len()).max(1);
        }
        cells
    }
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

    /// What is written by `tell`, as it reads without colours.
    fn plain(scene: &Scene, tell: impl FnOnce(&mut Story<'_, &mut anstream::StripStream<Vec<u8>>>)) -> String {
        let mut out = anstream::StripStream::new(Vec::new());
        tell(&mut Story::new(scene, &mut out, false));
        String::from_utf8(out.into_inner()).unwrap()
    }

    /// Tells a made-up run.
    fn told(scene: &Scene, recording: &Recording, detail: Detail) -> String {
        plain(scene, |story| {
            story.title(1).unwrap();
            story.introduction("1.2.3").unwrap();
            story.run_begins("Run", detail).unwrap();
            let mut sequence = Sequence::new();
            let mut events: Vec<(Duration, Event)> = scene
                .spans()
                .enumerate()
                .map(|(number, (_, span))| (Duration::from_secs(span.start.into()), Event::Phase(number)))
                .chain(recording.changes.iter().map(|change| (change.at, Event::Change(change.clone()))))
                .chain(recording.told.iter().map(|told| (told.at, Event::Told(told.clone()))))
                .collect();
            events.sort_by_key(|(at, _)| *at);
            for (at, event) in events {
                sequence.happened(at, event);
            }
            while let Some(moment) = sequence.next(|second| second < scene.seconds()) {
                story.tell(&moment, recording, detail).unwrap();
            }
        })
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
            let text = plain(&scene, |story| story.comparison(Runs { with: &with, without: &without }).unwrap());
            assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
            assert!(text.contains("What you saw:"), "{text}");
        }
    }

    #[test]
    fn the_introduction_says_what_each_run_is() {
        for scene in scene::all() {
            let text = plain(&scene, |story| story.introduction("1.2.3").unwrap());
            let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(joined.contains(scene.policy_in_words) && joined.contains(scene.without.in_words), "{text}");
            assert!(joined.contains("Envoy 1.2.3") && joined.contains(&words::load(&scene)), "{text}");
        }
    }

    #[test]
    fn a_caption_ends_where_its_last_column_ends() {
        let (scene, with, _) = test_data::runs("storm");
        let text = told(&scene, &with, Detail::Seconds);
        let lines: Vec<&str> = text.lines().collect();
        let header = lines.iter().position(|line| line.contains("p99")).unwrap();
        let over = lines[header - 1];
        for (caption, head) in
            [("clients ", " sent"), ("clients got", "errors"), ("attempts  ", "a request"), ("waited", "p99")]
        {
            let ends = |line: &str, word: &str| line.find(word).unwrap() + word.trim_end().len();
            assert_eq!(ends(over, caption), ends(lines[header], head), "{caption} over {head}\n{text}");
        }
    }

    #[test]
    fn the_brief_run_has_a_line_for_each_phase_and_none_for_a_change() {
        for scene in scene::all() {
            let text = told(&scene, &test_data::run(&scene, true), Detail::Phases);
            let is_row = |line: &&str| line.get(5..8) == Some(" s ") && !line.contains(':');
            assert_eq!(text.lines().filter(is_row).count(), scene.phases.len(), "{text}");
            assert!(!text.contains("->"), "{text}");
        }
    }

    #[test]
    fn a_broken_claim_is_said_with_its_numbers() {
        let scene = scene::all().remove(0);
        let claim = Claim { what: "the breaker opened".to_owned(), holds: false, seen: "it did not".to_owned() };
        let text = plain(&scene, |story| story.verdict(&[claim]).unwrap());
        assert!(text.contains("did not show what it is for"), "{text}");
        assert!(text.contains("not so: the breaker opened (it did not)"), "{text}");
    }

    #[test]
    fn it_opens_with_what_will_be_shown_and_closes_with_what_to_remember() {
        let scenes = scene::all();
        let mut out = anstream::StripStream::new(Vec::new());
        opening(&mut out, &scenes).unwrap();
        closing(&mut out, &["The first.".to_owned(), "The second.".to_owned()], 0).unwrap();
        let text = String::from_utf8(out.into_inner()).unwrap();
        let seconds: u32 = scenes.iter().map(|scene| 2 * scene.seconds()).sum();
        for part in ["5 stories on a real Envoy", &format!("about {seconds} s"), "  1. The first.", "  2. The second."]
        {
            assert!(text.contains(part), "{part:?} in {text}");
        }
        assert!(!text.contains("did not hold"), "{text}");
    }

    #[test]
    fn what_did_not_hold_is_not_forgotten_at_the_end() {
        let mut out = anstream::StripStream::new(Vec::new());
        closing(&mut out, &["It.".to_owned()], 2).unwrap();
        let text = String::from_utf8(out.into_inner()).unwrap();
        assert!(text.contains("2 statements of the runs above did not hold"), "{text}");
    }
}
