//! The grammar of `must`: which sentence stands for which objective, and what is wrong with any other.
//!
//! Values are handed on as they are written. Whether `0.1%` is a percentage is for who reads it.

use std::ops::Range;

use crate::plan::node::Node;
use crate::plan::number;
use crate::plan::report::{cut, nearest, suggest};
use crate::ratio::Ratio;
use crate::sample::class;
use crate::time::Span;

/// Longest sentence, in bytes.
pub(in crate::plan) const SENTENCE_MAX: usize = 300;
/// Words that begin a sentence of their own.
const BEGINNINGS: [&str; 4] = ["burn", "canary", "never", "no"];
/// What classes are also called.
const ALIASES: [(&str, &str); 2] = [("4xx", class::HTTP_4XX), ("5xx", class::HTTP_5XX)];

const BURN: &str = "burn 30d slo 99.9%, spend 5%";
const COMPARE: &str = "canary error_ratio <= 1.5x baseline";
const CONSECUTIVE: &str = "never 3 slots down";
const LIMIT: &str = "error_ratio < 0.1%, alert 0.5%";
const LOWER: &str = "handlers >= 4";
const QUANTILE: &str = "p99 < 10s";
const RISING: &str = "uptime never falls";
const STABLE: &str = "memory stable within 5% a day";
const ZERO: &str = "no 5xx, timeout";
/// A sentence of each form.
pub(in crate::plan) const EXAMPLES: [&str; 9] =
    [LIMIT, QUANTILE, ZERO, LOWER, CONSECUTIVE, COMPARE, RISING, STABLE, BURN];

/// A word of a sentence, or what it stands for, and the bytes it has in the sentence.
#[derive(Debug, Clone)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) range: Range<usize>,
}

impl Word {
    fn standing_for(&self, text: impl Into<String>) -> Self {
        Self { text: text.into(), range: self.range.clone() }
    }
}

/// A value of the structured form.
pub(super) enum Said {
    One(Word),
    Several(Vec<Word>),
}

/// The structured form of a sentence: its key and what stands under it.
pub(super) struct Form {
    pub(super) kind: &'static str,
    pub(super) values: Vec<(&'static str, Said)>,
}

impl Form {
    fn new(kind: &'static str) -> Self {
        Self { kind, values: Vec::new() }
    }

    fn with(mut self, key: &'static str, word: Option<Word>) -> Self {
        self.values.extend(word.map(|word| (key, Said::One(word))));
        self
    }

    fn bad(mut self, classes: Vec<Word>) -> Self {
        if !classes.is_empty() {
            self.values.push(("bad", Said::Several(classes)));
        }
        self
    }

    /// Of two limits the larger one fails and the smaller one warns, whichever comes first.
    fn limits<T: PartialOrd>(self, first: Word, alert: Option<Word>, read: impl Fn(&str) -> Option<T>) -> Self {
        let Some(alert) = alert else { return self.with("max", Some(first)) };
        let is_first_larger = read(&first.text).zip(read(&alert.text)).is_some_and(|(first, alert)| first > alert);
        let (max, target) = if is_first_larger { (first, alert) } else { (alert, first) };
        self.with("max", Some(max)).with("target", Some(target))
    }
}

/// What is wrong with a sentence.
pub(super) struct Slip {
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) help: String,
    pub(super) range: Range<usize>,
}

type Parsed<T> = Result<T, Slip>;

/// The form that the sentence of a `must` stands for.
pub(super) fn form(must: &Node) -> Parsed<Form> {
    let slip = |code, message, help: &str| Slip { code, message, help: help.to_owned(), range: 0..0 };
    let text = match must.text() {
        Some(text) if !must.is_nothing() => text,
        _ => {
            let message = format!("{} instead of a sentence", must.kind());
            return Err(slip("P06", message, &format!("write for example `must: \"{LIMIT}\"`")));
        }
    };
    if text.len() > SENTENCE_MAX {
        let message = format!("a sentence of {} bytes", text.len());
        return Err(Slip { range: 0..text.len(), ..slip("P10", message, "at most 300") });
    }
    let mut parser = Parser { words: words(text), next: 0, end: text.len() };
    match parser.peek() {
        "burn" => parser.burn(),
        "canary" => parser.compare(),
        "never" => parser.consecutive(),
        "no" => parser.zero(),
        _ => parser.limit(),
    }
}

/// Cuts a sentence into words, brackets, commas and runs of `<`, `>`, `=`.
fn words(text: &str) -> Vec<Word> {
    let sort = |c: char| match c {
        ',' | '(' | ')' => 0,
        '<' | '>' | '=' | '!' => 1,
        c if c.is_whitespace() => 2,
        _ => 3,
    };
    let mut words: Vec<(u8, Word)> = Vec::new();
    for (at, c) in text.char_indices() {
        let range = at..at + c.len_utf8();
        match words.last_mut() {
            Some((own, word)) if *own == sort(c) && *own > 0 => {
                word.text.push(c);
                word.range.end = range.end;
            }
            _ => words.push((sort(c), Word { text: c.to_string(), range })),
        }
    }
    words.into_iter().filter(|(sort, _)| *sort != 2).map(|(_, word)| word).collect()
}

struct Parser {
    words: Vec<Word>,
    next: usize,
    end: usize,
}

impl Parser {
    fn peek(&self) -> &str {
        self.words.get(self.next).map_or("", |word| word.text.as_str())
    }

    /// What is wrong at the next word, or behind the last one.
    fn slip(&self, needed: &str, example: &str) -> Slip {
        let found = self.words.get(self.next);
        let what = found.map_or_else(|| "nothing".to_owned(), |word| format!("`{}`", cut(&word.text)));
        Slip {
            code: "P02",
            message: format!("{what} where {needed} is needed"),
            help: format!("write for example `{example}`"),
            range: found.map_or(self.end..self.end, |word| word.range.clone()),
        }
    }

    fn take(&mut self, needed: &str, example: &str) -> Parsed<Word> {
        let is_word = |text: &str| !text.starts_with([',', '(', ')', '<', '>', '=', '!']);
        match self.words.get(self.next) {
            Some(word) if is_word(&word.text) => {
                self.next += 1;
                Ok(word.clone())
            }
            _ => Err(self.slip(needed, example)),
        }
    }

    fn skip(&mut self, text: &str) -> bool {
        let is_there = self.peek() == text;
        self.next += usize::from(is_there);
        is_there
    }

    fn expect(&mut self, text: &str, example: &str) -> Parsed<()> {
        if self.skip(text) { Ok(()) } else { Err(self.slip(&format!("`{text}`"), example)) }
    }

    fn finish(&self, form: Form, example: &str) -> Parsed<Form> {
        if self.next < self.words.len() { Err(self.slip("the end", example)) } else { Ok(form) }
    }

    /// `, word VALUE`, when there is more.
    fn option(&mut self, word: &str, needed: &str, example: &str) -> Parsed<Option<Word>> {
        if !self.skip(",") {
            return Ok(None);
        }
        self.expect(word, example)?;
        self.take(needed, example).map(Some)
    }

    fn burn(&mut self) -> Parsed<Form> {
        self.expect("burn", BURN)?;
        let bad = self.bracket(BURN)?;
        let period = self.take("a duration", BURN)?;
        self.expect("slo", BURN)?;
        let slo = self.take("a percentage", BURN)?;
        let spend = self.option("spend", "a percentage", BURN)?;
        let form = Form::new("burn").with("slo", Some(slo)).with("period", Some(period)).with("spend", spend);
        self.finish(form.bad(bad), BURN)
    }

    fn compare(&mut self) -> Parsed<Form> {
        self.expect("canary", COMPARE)?;
        let subject = self.take("what is compared", COMPARE)?;
        let form = if subject.text == "latency" {
            Form::new("compare_latency")
        } else if let Some(quantile) = quantile(&subject)? {
            Form::new("compare_latency").with("q", Some(quantile))
        } else if let Some(bad) = share(&subject) {
            Form::new("compare").bad(self.or_bracket(&subject, bad, COMPARE)?)
        } else {
            let known = ["error_ratio", "5xx_ratio", "timeout_ratio", "p99", "latency"];
            let message = format!("`{}` cannot be compared", cut(&subject.text));
            return Err(wrong(&subject, message, suggest(&subject.text, known)));
        };
        if !self.skip("<") {
            self.expect("<=", COMPARE)?;
        }
        let times = self.take("a factor", COMPARE)?;
        self.expect("baseline", COMPARE)?;
        self.finish(form.with("times", Some(times)), COMPARE)
    }

    fn consecutive(&mut self) -> Parsed<Form> {
        self.expect("never", CONSECUTIVE)?;
        let slots = self.take("a whole number", CONSECUTIVE)?;
        self.expect("slots", CONSECUTIVE)?;
        self.expect("down", CONSECUTIVE)?;
        self.finish(Form::new("consecutive").with("slots", Some(slots)), CONSECUTIVE)
    }

    fn zero(&mut self) -> Parsed<Form> {
        self.expect("no", ZERO)?;
        if self.skip("errors") {
            return self.finish(Form::new("zero"), "no errors");
        }
        let bad = self.classes(&["errors"], ZERO)?;
        self.finish(Form::new("zero").bad(bad), ZERO)
    }

    /// Classes with commas between them. `also` could have stood here in their place.
    fn classes(&mut self, also: &[&str], example: &str) -> Parsed<Vec<Word>> {
        let mut classes = Vec::new();
        loop {
            let word = self.take("a class of answers", example)?;
            let Some(class) = class_of(&word.text) else {
                let aliases = ALIASES.iter().map(|(alias, _)| *alias);
                let known = also.iter().copied().chain(aliases).chain(class::ALL).filter(|name| *name != class::OK);
                let message = format!("no probe is known to report `{}`", cut(&word.text));
                return Err(wrong(&word, message, suggest(&word.text, known)));
            };
            classes.push(word.standing_for(class));
            if !self.skip(",") {
                return Ok(classes);
            }
        }
    }

    /// Classes in brackets; none when there is no bracket.
    fn bracket(&mut self, example: &str) -> Parsed<Vec<Word>> {
        if !self.skip("(") {
            return Ok(Vec::new());
        }
        let classes = self.classes(&[], example)?;
        self.expect(")", example)?;
        Ok(classes)
    }

    /// The classes of a share: `error_ratio` may name some of them in brackets.
    fn or_bracket(&mut self, subject: &Word, bad: Option<&'static str>, example: &str) -> Parsed<Vec<Word>> {
        match bad {
            Some(class) => Ok(vec![subject.standing_for(class)]),
            None => self.bracket(example),
        }
    }

    /// Everything that begins with the name of what is limited.
    fn limit(&mut self) -> Parsed<Form> {
        let subject = self.take("a sentence", LIMIT)?;
        let quantile = quantile(&subject)?;
        let bad = share(&subject).map(|bad| self.or_bracket(&subject, bad, LIMIT)).transpose()?;
        let is_number = quantile.is_none() && bad.is_none();
        match self.peek() {
            "<" | "<=" => self.next += 1,
            "never" if is_number => return self.rising(subject),
            "stable" if is_number => return self.stable(subject),
            ">=" if is_number => return self.lower(subject),
            ">" if is_number => return Err(self.slip("`>=`", LOWER)),
            _ if !is_number => return Err(self.slip("`<`", LIMIT)),
            _ => {
                let message = format!("`{}` begins no sentence", cut(&subject.text));
                let meant = nearest(&subject.text, BEGINNINGS).map(|meant| format!("did you mean `{meant}`?"));
                return Err(meant.map_or_else(|| self.slip("`<`", LIMIT), |meant| wrong(&subject, message, meant)));
            }
        }
        let example = if quantile.is_some() { "p95 < 500ms, alert 2s" } else { LIMIT };
        let first = self.take("a limit", example)?;
        let alert = self.option("alert", "a limit", example)?;
        let form = match (quantile, bad) {
            (Some(quantile), _) => {
                Form::new("quantile").with("q", Some(quantile)).limits(first, alert, |text| text.parse::<Span>().ok())
            }
            (None, Some(bad)) => Form::new("ratio").limits(first, alert, |text| text.parse::<Ratio>().ok()).bad(bad),
            (None, None) => {
                limits_a_number(&subject, &first)?;
                Form::new("number").with("number", Some(subject)).limits(first, alert, number::read)
            }
        };
        self.finish(form, example)
    }

    fn lower(&mut self, subject: Word) -> Parsed<Form> {
        self.next += 1;
        let min = self.take("a number", LOWER)?;
        if self.peek() == "," {
            return Err(Slip {
                help: "a lower limit has no alert: leave it out".into(),
                ..self.slip("the end", LOWER)
            });
        }
        self.finish(Form::new("number").with("number", Some(subject)).with("min", Some(min)), LOWER)
    }

    fn rising(&mut self, subject: Word) -> Parsed<Form> {
        self.next += 1;
        self.expect("falls", RISING)?;
        self.finish(Form::new("rising").with("number", Some(subject)), RISING)
    }

    fn stable(&mut self, subject: Word) -> Parsed<Form> {
        self.next += 1;
        self.expect("within", STABLE)?;
        let within = self.take("a percentage", STABLE)?;
        self.expect("a", STABLE)?;
        self.expect("day", STABLE)?;
        let uptime =
            self.option("uptime", "the number that tells it", "memory stable within 5% a day, uptime uptime_s")?;
        let form = Form::new("stable").with("number", Some(subject)).with("within", Some(within));
        self.finish(form.with("uptime", uptime), STABLE)
    }
}

/// What a word such as `p99.9` stands for; nothing when it is none.
fn quantile(word: &Word) -> Parsed<Option<Word>> {
    let points = word.text.strip_prefix('p').filter(|points| points.starts_with(|c: char| c.is_ascii_digit()));
    let Some(points) = points.filter(|points| points.bytes().all(|b| b.is_ascii_digit() || b == b'.')) else {
        return Ok(None);
    };
    let percent = format!("{points}%");
    if percent.parse::<Ratio>().is_err() {
        let message = format!("`{}` is not a quantile", cut(&word.text));
        return Err(wrong(word, message, "write for example `p99` or `p99.9`"));
    }
    Ok(Some(word.standing_for(percent)))
}

/// What a word such as `5xx_ratio` counts as bad: one class, or every one but `ok`.
fn share(word: &Word) -> Option<Option<&'static str>> {
    match word.text.strip_suffix("_ratio")? {
        "error" => Some(None),
        class => class_of(class).map(Some),
    }
}

fn class_of(word: &str) -> Option<&'static str> {
    let alias = ALIASES.into_iter().find(|(alias, _)| *alias == word).map(|(_, class)| class);
    alias.or_else(|| class::ALL.into_iter().find(|class| *class == word))
}

/// Whether a limit is one of a number: percentages and durations belong to what is not one.
fn limits_a_number(subject: &Word, limit: &Word) -> Parsed<()> {
    let message = format!("`{}` is read as a number, and `{}` is none", cut(&subject.text), cut(&limit.text));
    if limit.text.ends_with('%') {
        let known = ["error_ratio", "5xx_ratio", "4xx_ratio", "timeout_ratio"];
        let help = suggest(&subject.text, known);
        return Err(wrong(subject, message, format!("a share of answers is one of these: {help}")));
    }
    if number::read(&limit.text).is_none() && limit.text.parse::<Span>().is_ok() {
        return Err(wrong(subject, message, format!("for how long answers take, write for example `{QUANTILE}`")));
    }
    Ok(())
}

fn wrong(word: &Word, message: String, help: impl Into<String>) -> Slip {
    Slip { code: "P02", message, help: help.into(), range: word.range.clone() }
}
