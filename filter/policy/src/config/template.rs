//! Templates, of bodies and of header values: text with `${reason}` and the like; `$${` is a literal `${`, any other `$` itself.

use core::mem;

use super::error::{Report, Reported};
use super::header;
use super::reader::quoted;
use super::table::{RESPOND, key};
use crate::document::TemplatePart;

const VARIABLES: &str = "${reason}, ${policy}, ${retry_after}, ${path}, ${header.NAME}";

/// Compiles the template that stands at `path`. All its errors are reported.
pub(super) fn read(path: &str, text: &str, report: &mut Report) -> Result<Vec<TemplatePart>, Reported> {
    let mut template = Template::default();
    let read = template.push(path, text, str::to_owned, report);
    let parts = template.finish(path, report)?;
    read.map(|()| parts)
}

/// A template while it is put together.
#[derive(Debug, Default)]
pub(super) struct Template {
    parts: Vec<TemplatePart>,
    /// The text behind the last of them.
    literal: String,
}

impl Template {
    /// Appends a text that is no template.
    pub(super) fn push_text(&mut self, text: &str) {
        self.literal.push_str(text);
    }

    /// Appends the template that stands at `path`; `spell` says how its own text is written. All its errors are reported.
    pub(super) fn push(
        &mut self,
        path: &str,
        text: &str,
        spell: impl Fn(&str) -> String,
        report: &mut Report,
    ) -> Result<(), Reported> {
        let mut literal = String::new();
        let mut failed = None;
        let mut rest = text;
        while let Some((before, from)) = rest.find('$').and_then(|at| rest.split_at_checked(at)) {
            literal.push_str(before);
            if let Some(after) = from.strip_prefix("$${") {
                literal.push_str("${");
                rest = after;
            } else if let Some(inside) = from.strip_prefix("${") {
                let Some((name, after)) = inside.split_once('}') else {
                    let problem = format!("has an unclosed {}; accepted here: {VARIABLES}", quoted(from));
                    return Err(report.add(path, format!("{problem}; write $${{ for a literal ${{")));
                };
                match variable(name) {
                    Some(part) => {
                        self.literal.push_str(&spell(&mem::take(&mut literal)));
                        self.push_part(part);
                    }
                    None => {
                        let problem = format!("unknown variable {}; accepted here: {VARIABLES}", quoted(name));
                        failed = Some(report.add(path, problem));
                    }
                }
                rest = after;
            } else {
                literal.push('$');
                rest = from.strip_prefix('$').unwrap_or_default();
            }
        }
        literal.push_str(rest);
        self.literal.push_str(&spell(&literal));
        failed.map_or(Ok(()), Err)
    }

    fn push_part(&mut self, part: TemplatePart) {
        if !self.literal.is_empty() {
            self.parts.push(TemplatePart::Text(mem::take(&mut self.literal)));
        }
        self.parts.push(part);
    }

    /// The parts of what stands at `path`.
    pub(super) fn finish(mut self, path: &str, report: &mut Report) -> Result<Vec<TemplatePart>, Reported> {
        if !self.literal.is_empty() {
            self.parts.push(TemplatePart::Text(self.literal));
        }
        let variables = self.parts.iter().filter(|part| is_variable(part)).count();
        // Together with the limits on a body and on Envoy's headers it bounds what one answer can grow to.
        let most = key!(RESPOND.body("body")).range.template.most;
        if variables > most {
            let problem = format!("must have at most {most} variables, has {variables}");
            return Err(report.add(path, problem));
        }
        Ok(self.parts)
    }
}

/// Whether a part is more than text.
pub(super) fn is_variable(part: &TemplatePart) -> bool {
    !matches!(part, TemplatePart::Text(_))
}

fn variable(name: &str) -> Option<TemplatePart> {
    match name {
        "reason" => Some(TemplatePart::Reason),
        "policy" => Some(TemplatePart::Policy),
        "retry_after" => Some(TemplatePart::RetryAfter),
        "path" => Some(TemplatePart::Path),
        _ => {
            let header = name.strip_prefix("header.")?;
            header::is_token(header).then(|| TemplatePart::Header(header.to_ascii_lowercase()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn compile(text: &str) -> Result<Vec<TemplatePart>, String> {
        let mut report = Report::default();
        read("policies", text, &mut report).map_err(|_| report.finish().unwrap_err().to_string())
    }

    fn text(text: &str) -> TemplatePart {
        TemplatePart::Text(text.into())
    }

    #[test]
    fn variables_are_cut_out_of_the_text() {
        assert_eq!(
            compile("a ${reason}${policy} b ${retry_after}${path}${header.X-Id}").unwrap(),
            [
                text("a "),
                TemplatePart::Reason,
                TemplatePart::Policy,
                text(" b "),
                TemplatePart::RetryAfter,
                TemplatePart::Path,
                TemplatePart::Header("x-id".into()),
            ]
        );
    }

    #[test]
    fn dollars_that_open_nothing_are_text() {
        assert_eq!(compile("$5 and $$ and $").unwrap(), [text("$5 and $$ and $")]);
        assert_eq!(compile("$${reason}").unwrap(), [text("${reason}")]);
        assert_eq!(compile("$$${reason}").unwrap(), [text("$${reason}")]);
        assert_eq!(compile("{reason} é$").unwrap(), [text("{reason} é$")]);
        assert_eq!(compile("").unwrap(), []);
    }

    #[test]
    fn an_answer_cannot_grow_without_limit() {
        assert!(compile(&"${path}".repeat(64)).is_ok());
        assert_eq!(compile(&"${path}".repeat(65)).unwrap_err(), "policies: must have at most 64 variables, has 65");
    }

    #[test]
    fn unknown_and_unclosed_variables_are_errors_that_list_the_known() {
        let both = compile("${resaon} ${header.} ${path").unwrap_err();
        assert_eq!(
            both,
            "policies: unknown variable \"resaon\"; accepted here: ${reason}, ${policy}, ${retry_after}, ${path}, \
             ${header.NAME}\n\
             policies: unknown variable \"header.\"; accepted here: ${reason}, ${policy}, ${retry_after}, ${path}, \
             ${header.NAME}\n\
             policies: has an unclosed \"${path\"; accepted here: ${reason}, ${policy}, ${retry_after}, ${path}, \
             ${header.NAME}; write $${ for a literal ${"
        );
        assert!(compile("${header.:path}").is_err(), "pseudo headers have variables of their own");
    }
}
