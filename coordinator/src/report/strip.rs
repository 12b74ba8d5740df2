//! Slots of a region in a row, down-sampled while they come, so that no gap is ever lost.

use std::collections::BTreeMap;

use bellwether_protocol::id::Region;
use bellwether_protocol::report::{Cell, Gap, Strip};
use bellwether_protocol::time::{Span, Timestamp};

/// Most cells of a strip: each can still be told apart on a screen.
const CELLS_MAX: usize = 120;
/// Slots that wait for the other series of their region. Series close within a grace of each other.
const OPEN_MAX: usize = 64;

/// The slots of every region.
#[derive(Default)]
pub(super) struct Strips {
    regions: BTreeMap<Region, Marks>,
}

/// One region.
#[derive(Default)]
struct Marks {
    first: Option<Timestamp>,
    /// The worst of all series, by slot; not yet in a cell.
    open: BTreeMap<Timestamp, char>,
    /// Slots of one cell.
    per_cell: u64,
    cells: Vec<Cell>,
    slots: u64,
    missing: u64,
    between: Option<(Timestamp, Timestamp)>,
    late: u64,
    unwell: u64,
}

impl Strips {
    /// Takes one slot of one series.
    pub(super) fn take(&mut self, region: &Region, slot: Timestamp, mark: char, unwell: u32, width: Span) {
        let marks = self.regions.entry(region.clone()).or_default();
        marks.unwell = marks.unwell.saturating_add(unwell.into());
        let worst = |a: char, b: char| ['x', '?'].into_iter().find(|bad| a == *bad || b == *bad).unwrap_or('.');
        marks.open.entry(slot).and_modify(|own| *own = worst(*own, mark)).or_insert(mark);
        while marks.open.len() > OPEN_MAX {
            marks.close_first(width);
        }
    }

    /// Takes one slot that came after it had closed.
    pub(super) fn take_late(&mut self, region: &Region) {
        self.regions.entry(region.clone()).or_default().late += 1;
    }

    /// What there is to draw, and what is missing.
    pub(super) fn finish(self, width: Span) -> (Vec<Strip>, Vec<Gap>) {
        let region = |(region, mut marks): (Region, Marks)| {
            while !marks.open.is_empty() {
                marks.close_first(width);
            }
            let Marks { slots, missing, between, late, unwell, .. } = marks;
            let gap = Gap { region: region.clone(), slots, missing, between, late, unwell };
            let (from, cell) = (marks.first.unwrap_or_default(), width.times(marks.per_cell.max(1)));
            (Strip { region, from, cell, cells: marks.cells }, gap)
        };
        self.regions.into_iter().map(region).unzip()
    }
}

impl Marks {
    fn close_first(&mut self, width: Span) {
        let Some((slot, mark)) = self.open.pop_first() else { return };
        let first = *self.first.get_or_insert(slot);
        self.per_cell = self.per_cell.max(1);
        let place = slot.since(first).as_ms() / width.as_ms().max(1);
        let cells_max = u64::try_from(CELLS_MAX).unwrap_or(u64::MAX);
        while place / self.per_cell >= cells_max {
            self.cells = self.cells.chunks(2).map(|pair| pair.iter().fold(Cell::default(), together)).collect();
            self.per_cell = self.per_cell.saturating_mul(2);
        }
        let index = usize::try_from(place / self.per_cell).unwrap_or(0);
        if self.cells.len() <= index {
            self.cells.resize(index + 1, Cell::default());
        }
        self.slots += 1;
        if mark == '?' {
            self.missing += 1;
            self.between = Some((self.between.map_or(slot, |(from, _)| from), slot));
        }
        if let Some(cell) = self.cells.get_mut(index) {
            let one = Cell { slots: 1, red: u32::from(mark == 'x'), missing: u32::from(mark == '?') };
            *cell = together(*cell, &one);
        }
    }
}

fn together(a: Cell, b: &Cell) -> Cell {
    Cell { slots: a.slots + b.slots, red: a.red + b.red, missing: a.missing + b.missing }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: Span = Span::from_secs(30);

    /// The strip of one region, whose two series show `a` and `b`.
    fn strip(a: &str, b: &str) -> (Strip, Gap) {
        let region: Region = "sjc".parse().unwrap();
        let mut strips = Strips::default();
        for marks in [a, b] {
            for (index, mark) in marks.chars().enumerate() {
                let slot = Timestamp::from_ms(1_800_000_000_000) + SLOT.times(index as u64);
                strips.take(&region, slot, mark, 0, SLOT);
            }
        }
        let (mut strips, mut gaps) = strips.finish(SLOT);
        (strips.remove(0), gaps.remove(0))
    }

    #[test]
    fn the_worst_series_of_a_slot_is_shown() {
        let (strip, gap) = strip(".?.x", "..x?");
        let shown: Vec<_> = strip.cells.iter().map(|cell| (cell.slots, cell.red, cell.missing)).collect();
        assert_eq!(shown, [(1, 0, 0), (1, 0, 1), (1, 1, 0), (1, 1, 0)]);
        assert_eq!((gap.slots, gap.missing), (4, 1));
    }

    #[test]
    fn one_gap_in_48_hours_is_still_seen() {
        for at in [0, 1, 2_879, 5_758, 5_759] {
            let marks: String = (0..5_760).map(|slot| if slot == at { '?' } else { '.' }).collect();
            let (strip, gap) = strip(&marks, "");
            assert!(strip.cells.len() <= CELLS_MAX && strip.cells.len() > CELLS_MAX / 2);
            assert_eq!(strip.cells.iter().map(|cell| cell.missing).sum::<u32>(), 1, "slot {at}");
            assert_eq!(strip.cells.iter().map(|cell| cell.slots).sum::<u32>(), 5_760);
            let its = strip.cells.iter().position(|cell| cell.missing > 0).unwrap();
            assert_eq!(its as u64, at * SLOT.as_ms() / strip.cell.as_ms());
            assert_eq!(gap.missing, 1);
        }
    }
}
