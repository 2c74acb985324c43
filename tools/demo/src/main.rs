//! Lives through outages on a real Envoy, with Holdfast and without, tells what happens as it happens, and draws it.
//!
//! A [`scene`] says what happens to the service, who calls it, which policy should help, and what is shown of it. A
//! [`stage`] is Envoy and its [`server`]s; [`perform`] runs the scene on it with the callers of [`load`] and fills a
//! [`recording`]. The [`story`] on the terminal, the tables of the [`summary`] and the [`page`] with its [`chart`] show
//! nothing but recordings, and the [`claims`] check that what was shown is what should have been.

mod answer;
mod change;
mod chart;
mod claims;
mod column;
mod ejection;
mod load;
mod page;
mod perform;
mod recording;
mod scene;
mod sequence;
mod server;
mod stage;
mod story;
mod summary;
#[cfg(test)]
mod test_data;
mod words;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

use crate::claims::Claim;
use crate::page::Chapter;
use crate::recording::{Recording, Runs};
use crate::scene::Scene;
use crate::stage::{Parts, Stage};
use crate::story::{Detail, Story};

/// Shows what Holdfast does in outages, on a real Envoy, and what happens without it.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The module, holdfast.wasm
    #[arg(long, value_name = "FILE")]
    module: PathBuf,
    /// The Envoy binary
    #[arg(long, value_name = "FILE")]
    envoy: PathBuf,
    /// Where the page with the charts goes
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// What to show; everything unless given
    #[arg(long, value_name = "NAME", value_parser = scene_names())]
    scene: Option<String>,
}

fn scene_names() -> clap::builder::PossibleValuesParser {
    scene::all().iter().map(|scene| scene.name).collect::<Vec<_>>().into()
}

/// What a shell reports of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Whichever ends first, the other is dropped, and with it Envoy and the servers.
    let ended = tokio::select! {
        shown = show(&arguments) => shown,
        interrupted = holdfast_tests::interruption() => interrupted.map_err(Into::into).map(|()| {
            eprintln!("\nInterrupted: Envoy and the servers are stopped.");
            ExitCode::from(INTERRUPTED)
        }),
    };
    ended.unwrap_or_else(|error| {
        // The reader of a pipe has seen enough.
        let left = error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
        if !left {
            eprintln!("demo: {error:#}");
        }
        ExitCode::FAILURE
    })
}

async fn show(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let parts = Parts { module: arguments.module.clone(), envoy: arguments.envoy.clone() };
    let wanted = |scene: &Scene| arguments.scene.as_ref().is_none_or(|name| scene.name == name);
    let scenes: Vec<Scene> = scene::all().into_iter().filter(wanted).collect();
    let mut out = anstream::stdout();

    story::opening(&mut out, &scenes)?;
    let mut shown = Vec::new();
    for (number, scene) in (1..).zip(&scenes) {
        shown.push(live_through(number, scene, &parts).await?);
    }
    let chapters: Vec<Chapter<'_>> = scenes.iter().zip(&shown).map(|(scene, shown)| shown.chapter(scene)).collect();
    let envoy_version = shown.first().map_or("", |shown| &shown.envoy_version);
    write(&arguments.out, &page::render(&chapters, envoy_version))?;

    let gists: Vec<String> = chapters.iter().map(|chapter| (chapter.scene.gist)(chapter.scene, chapter.runs)).collect();
    let broken = shown.iter().flat_map(|shown| &shown.claims).filter(|claim| !claim.holds).count();
    story::closing(&mut out, &gists, broken)?;
    writeln!(out, "\nPage with charts: {}", arguments.out.display())?;
    Ok(if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What came of a scene.
struct Shown {
    with: Recording,
    without: Recording,
    claims: Vec<Claim>,
    envoy_version: String,
}

impl Shown {
    fn chapter<'a>(&'a self, scene: &'a Scene) -> Chapter<'a> {
        Chapter { scene, runs: Runs { with: &self.with, without: &self.without }, claims: &self.claims }
    }
}

/// Performs a scene with Holdfast and without, and tells of it.
async fn live_through(number: usize, scene: &Scene, parts: &Parts) -> anyhow::Result<Shown> {
    let mut story = Story::new(scene, anstream::stdout(), io::stdout().is_terminal());
    story.title(number)?;
    let mut stage = Stage::start(scene, parts, true).await?;
    let envoy_version = stage.envoy_version().await?;
    story.introduction(&envoy_version)?;
    story.run_begins("Run 1 of 2, with Holdfast", Detail::Seconds)?;
    let with = run(scene, &mut stage, &mut story, Detail::Seconds).await?;
    drop(stage);

    story.run_begins("Run 2 of 2, without Holdfast", Detail::Phases)?;
    let mut stage = Stage::start(scene, parts, false).await?;
    let without = run(scene, &mut stage, &mut story, Detail::Phases).await?;
    drop(stage);

    let runs = Runs { with: &with, without: &without };
    let claims = (scene.claims)(scene, runs);
    story.comparison(runs)?;
    story.verdict(&claims)?;
    Ok(Shown { with, without, claims, envoy_version })
}

async fn run<W: io::Write>(
    scene: &Scene,
    stage: &mut Stage,
    story: &mut Story<'_, W>,
    detail: Detail,
) -> anyhow::Result<Recording> {
    perform::perform(scene, stage, |moment, recording| Ok(story.tell(moment, recording, detail)?)).await
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    directory.map_or(Ok(()), std::fs::create_dir_all).with_context(|| path.display().to_string())?;
    std::fs::write(path, text).with_context(|| path.display().to_string())
}
