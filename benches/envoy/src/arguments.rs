//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;
use clap::builder::PossibleValuesParser;

use crate::case::CASES;
use crate::saturation::Times;
use crate::stage::Module;

/// What is measured beside the cases: the names that `--only` knows too.
pub const PARTS: [&str; 3] = ["latency", "memory", "start"];

/// Measures what Holdfast costs a real Envoy.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Arguments {
    /// The module, holdfast.wasm. Several, each with a name, are measured in the same rounds
    #[arg(long, value_name = "[NAME=]FILE", required = true, value_parser = module)]
    pub module: Vec<Module>,
    /// The Envoy binary
    #[arg(long, value_name = "FILE")]
    pub envoy: PathBuf,
    /// The filter that does nothing, built with the SDK
    #[arg(long, value_name = "FILE")]
    pub noop: PathBuf,
    /// The filter that does nothing, with the fewest exports
    #[arg(long, value_name = "FILE")]
    pub lean_noop: PathBuf,
    /// Where bench.json and bench.svg go
    #[arg(long, value_name = "DIRECTORY")]
    pub out: PathBuf,
    /// How often every case is measured, in an order of its own each time [default: 30, quick: 5]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// How long it is measured each time [default: 0.3, quick: 0.3]
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,
    /// How long it is loaded once before the first round [default: 3, quick: 1]
    #[arg(long, value_name = "SECONDS")]
    warm_up: Option<f64>,
    /// Only these cases, with those that they are compared with, and parts; everything unless given
    #[arg(long, value_name = "NAME", num_args = 1.., value_parser = names())]
    pub only: Vec<String>,
    /// Fewer and shorter rounds: a first look
    #[arg(long)]
    pub quick: bool,
    /// What the order of the cases is made of
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

fn names() -> PossibleValuesParser {
    CASES.iter().map(|case| case.name).chain(PARTS).collect::<Vec<_>>().into()
}

fn module(text: &str) -> Result<Module, String> {
    let (name, path) = text.split_once('=').unwrap_or(("holdfast", text));
    let path = std::path::absolute(path).map_err(|error| error.to_string())?;
    Ok(Module { name: name.to_owned(), path })
}

impl Arguments {
    /// How many rounds.
    pub fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 5 } else { 30 })
    }

    /// How long each measurement takes.
    ///
    /// # Errors
    /// When a time is no duration.
    pub fn times(&self) -> anyhow::Result<Times> {
        let seconds = self.seconds.unwrap_or(0.3);
        let warm_up = self.warm_up.unwrap_or(if self.quick { 1.0 } else { 3.0 });
        ensure!((0.1..=600.0).contains(&seconds), "--seconds must be within 0.1..=600, was {seconds}");
        let measured = Duration::try_from_secs_f64(seconds).context("--seconds")?;
        Ok(Times { measured, warm_up: Duration::try_from_secs_f64(warm_up).context("--warm-up")? })
    }

    /// Whether one of [`PARTS`] is asked for.
    pub fn has_part(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == part)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_module_may_have_a_name() {
        assert_eq!(module("/a/b.wasm").unwrap().name, "holdfast");
        let named = module("old=/a/b.wasm").unwrap();
        assert_eq!((named.name.as_str(), named.path), ("old", PathBuf::from("/a/b.wasm")));
    }
}
