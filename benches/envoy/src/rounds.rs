//! Rounds: in each every subject once, in an order that differs from round to round. So what else the machine does, and how warm
//! it is, falls on all alike, and subjects can be compared round by round.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::IsTerminal;

use crate::statistics::paired;

/// What the rounds brought, and what could not be measured.
#[derive(Debug)]
pub struct Rounds<T> {
    /// The samples of each subject, round by round.
    pub samples: BTreeMap<String, Vec<T>>,
    /// What went wrong with those that could not be measured, and so have no samples.
    pub failures: BTreeMap<String, String>,
}

impl<T> Rounds<T> {
    /// Measures everything. What fails is not tried again.
    pub async fn run<S, F, Fut>(
        what: &str,
        subjects: &[S],
        label: impl Fn(&S) -> &str,
        rounds: u32,
        seed: u64,
        measure: F,
    ) -> Self
    where
        F: Fn(S) -> Fut,
        Fut: Future<Output = anyhow::Result<T>>,
        S: Clone,
    {
        let mut all = Rounds { samples: BTreeMap::new(), failures: BTreeMap::new() };
        let mut random = fastrand::Rng::with_seed(seed);
        let mut order = subjects.to_vec();
        for round in 1..=rounds {
            random.shuffle(&mut order);
            for (number, subject) in (1..).zip(&order) {
                let label = label(subject);
                if all.failures.contains_key(label) {
                    continue;
                }
                progress(&format!("{what}, round {round} of {rounds}: {number} of {}: {label}", order.len()));
                match measure(subject.clone()).await {
                    Ok(sample) => all.samples.entry(label.to_owned()).or_default().push(sample),
                    Err(error) => {
                        progress("");
                        eprintln!("bench: {error:#}");
                        all.samples.remove(label);
                        all.failures.insert(label.to_owned(), format!("{error:#}"));
                    }
                }
            }
        }
        progress("");
        all
    }

    /// A figure of each sample of a subject.
    pub fn figures(&self, label: &str, figure: impl Fn(&T) -> f64) -> Vec<f64> {
        self.samples.get(label).into_iter().flatten().map(figure).collect()
    }

    /// A figure of a subject, less that of another in the same round.
    pub fn above(&self, label: &str, base: &str, figure: impl Fn(&T) -> f64) -> Vec<f64> {
        paired(&self.figures(label, &figure), &self.figures(base, &figure), |value, base| value - base)
    }
}

/// One line that the next replaces, where somebody watches.
fn progress(line: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{line}");
    } else if !line.is_empty() {
        eprintln!("{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_fails_has_no_samples_and_the_rest_has_all() {
        let rounds = Rounds::run(
            "test",
            &["good", "bad"],
            |name| *name,
            3,
            1,
            async |name| {
                if name == "bad" { anyhow::bail!("no") } else { Ok(2.0) }
            },
        );
        let rounds = rounds.await;
        assert_eq!(rounds.samples.get("good").unwrap(), &[2.0, 2.0, 2.0]);
        assert_eq!(rounds.samples.get("bad"), None);
        assert_eq!(rounds.failures.get("bad").unwrap(), "no");
        assert_eq!(rounds.above("good", "good", |value| *value), [0.0, 0.0, 0.0]);
    }
}
