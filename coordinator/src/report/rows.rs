//! The rows of evidence: what a number rests on, and the command that shows it.

use bellwether_protocol::id::{Ordinal, RolloutId};
use bellwether_protocol::plan::Criterion;
use bellwether_protocol::reason::{Hold, Judgement, Reason};
use bellwether_protocol::record::Series;
use bellwether_protocol::report::{EvidenceRow, RowNumber, SlotRange};
use bellwether_protocol::status::StageStatus;
use bellwether_protocol::time::Timestamp;

use super::issues::Cause;
use super::seen::{Seen, Sight};

/// Rows, numbered from 1 in the order in which they are made.
pub(super) struct Rows {
    rollout: RolloutId,
    records: (Ordinal, Ordinal),
    pub(super) all: Vec<EvidenceRow>,
}

impl Rows {
    /// The first row is the log itself.
    pub(super) fn new(rollout: &RolloutId, records: (Ordinal, Ordinal), verified: usize) -> Self {
        let mut rows = Self { rollout: rollout.clone(), records, all: Vec::new() };
        let run = format!("bellwether audit verify {}", rollout.service);
        rows.push(format!("every decision: {verified} records decided again, each the same to the byte"), records, run);
        rows
    }

    fn push(&mut self, of: String, records: (Ordinal, Ordinal), run: String) -> RowNumber {
        let (slots, n, bad, parameters) = Default::default();
        self.all.push(EvidenceRow { of, records, slots, n, bad, parameters, run });
        RowNumber(self.all.len())
    }

    fn last(&mut self) -> Option<&mut EvidenceRow> {
        self.all.last_mut()
    }

    fn evidence(&self, flags: &str) -> String {
        format!("bellwether rollout evidence {}{flags}", self.rollout)
    }

    /// What a stage has soaked.
    pub(super) fn soak(&mut self, stage: Option<&StageStatus>, seen: &Seen) -> RowNumber {
        let name = stage.map(|stage| format!(" of {}", stage.name)).unwrap_or_default();
        let (records, range) = self.together(&seen.series.values().collect::<Vec<_>>());
        let number = self.push(format!("the soak{name}, all series"), records, self.evidence(""));
        if let Some(row) = self.last() {
            row.slots = range;
        }
        number
    }

    /// What was seen of one series.
    pub(super) fn series(&mut self, series: &Series, sight: &Sight) -> RowNumber {
        let Series { sli, cohort, region } = series;
        let run = self.evidence(&format!(" --region {region}"));
        let number = self.push(format!("{sli}, {cohort}, {region}"), sight.records, run);
        if let Some(row) = self.last() {
            (row.slots, row.n, row.bad) = (Some(sight.range), Some(sight.n), Some(sight.not_ok));
        }
        number
    }

    /// What a verdict rests on.
    pub(super) fn criterion(
        &mut self,
        criterion: &Criterion,
        judgement: Option<&Judgement>,
        seen: &[&Sight],
    ) -> RowNumber {
        let region = judgement.and_then(|own| own.region.as_ref());
        let place = region.map_or_else(|| "all regions".to_owned(), ToString::to_string);
        let flag = region.map(|region| format!(" --region {region}")).unwrap_or_default();
        let run = self.evidence(&format!(" --criterion {}{flag}", criterion.name));
        let (records, range) = self.together(seen);
        let number = self.push(format!("criterion {}, canary, {place}", criterion.name), records, run);
        if let (Some(row), Some(judgement)) = (self.last(), judgement) {
            let numbers = &judgement.numbers;
            (row.slots, row.n, row.bad) = (range, Some(numbers.n), Some(numbers.bad));
            row.parameters = judgement.grounds.as_ref().map(|grounds| grounds.parameters.clone());
        }
        number
    }

    /// The records of an issue.
    pub(super) fn issue(&mut self, issue: &Cause) -> RowNumber {
        let run = match &issue.what {
            Reason::VerdictChanged { judgement } => {
                let region = judgement.region.as_ref().map(|region| format!(" --region {region}")).unwrap_or_default();
                self.evidence(&format!(" --criterion {}{region}", judgement.criterion))
            }
            Reason::Held { hold: Hold::NoData { region, .. } } => self.evidence(&format!(" --region {region}")),
            _ => format!("bellwether rollout explain {}", self.rollout),
        };
        self.push(format!("issue {}", issue.name), issue.records, run)
    }

    /// Several series: of records and slots the widest, of coverage the worst.
    fn together(&self, seen: &[&Sight]) -> ((Ordinal, Ordinal), Option<SlotRange>) {
        let records = seen.iter().map(|own| own.records).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
        let widest = |a: SlotRange, b: SlotRange| SlotRange {
            from: Timestamp::min(a.from, b.from),
            upto: Timestamp::max(a.upto, b.upto),
            covered: a.covered.min(b.covered),
            slots: a.slots.max(b.slots),
        };
        (records.unwrap_or(self.records), seen.iter().map(|own| own.range).reduce(widest))
    }
}
