// SPDX-License-Identifier: MPL-2.0
//! How what a window shows moves by itself while a unit lasts: a mesh of nodes, one for each macroblock of the window, whose displacements grow
//! evenly from the picture before the unit to its last frame. Between the nodes displacements are bilinear. All of it is integers: the maps
//! that contexts come from move with it.

use super::{Window, MACROBLOCK_SIDE};

/// Parts of a luma sample in which places and displacements are measured.
pub const PARTS: i32 = 16;
/// From node to node.
const PITCH: i32 = MACROBLOCK_SIDE as i32 * PARTS;
/// By how much displacements along an axis differ at most between neighbours on that axis, where both go the same way: by less than their
/// distance, or the mesh would fold there. Things that meet may fold it.
const SLOPE: i32 = 12 * PARTS;
/// The same between neighbours across it, where what moves shears off.
const SHEAR: i32 = 24 * PARTS;
/// How often a place is looked for that moves to another.
const STEPS: usize = 16;

/// Columns and rows, in [`PARTS`] of a luma sample.
pub type Displacement = (i32, i32);

/// Displacements at the nodes, the centres of macroblocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MotionField {
    /// Columns and rows of nodes.
    size: (usize, usize),
    /// Width and height of the window, in parts of a sample.
    parts: (i32, i32),
    nodes: Vec<Displacement>,
}

impl MotionField {
    /// Of a window whose macroblocks, row by row, move so far. Neighbours of what moves are drawn along, and at the window's edges nothing
    /// leaves it.
    pub fn new(window: &Window, wanted: &[Displacement]) -> MotionField {
        let (columns, rows) = window.macroblocks();
        let (width, height) = window.size();
        let along =
            |axis: &dyn Fn(&Displacement) -> i32, slopes| unfolded(columns, wanted.iter().map(axis).collect(), slopes);
        let x = along(&|displacement| displacement.0, (SLOPE, SHEAR));
        let y = along(&|displacement| displacement.1, (SHEAR, SLOPE));
        let nodes = (0..columns * rows).map(|at| {
            let near = |value: i32, node: usize, size: usize| {
                let centre = node as i32 * PITCH + PITCH / 2;
                let edge = centre.min(size as i32 * PARTS - centre).max(0);
                let most = edge * SLOPE / PITCH;
                value.clamp(-most, most)
            };
            (near(x[at], at % columns, width), near(y[at], at / columns, height))
        });
        MotionField {
            size: (columns, rows),
            parts: (width as i32 * PARTS, height as i32 * PARTS),
            nodes: nodes.collect(),
        }
    }

    /// How far what is at a place before the unit has moved at its end.
    fn at(&self, (x, y): (i32, i32)) -> Displacement {
        let (columns, rows) = self.size;
        let (left, right, across) = between(x, columns);
        let (upper, lower, down) = between(y, rows);
        let [a, b, c, d] = [(left, upper), (right, upper), (left, lower), (right, lower)]
            .map(|(column, row)| self.nodes[row * columns + column]);
        if [a, b, c, d] == [(0, 0); 4] {
            return (0, 0);
        }
        let mixed = |a: i32, b: i32, c: i32, d: i32| {
            let (upper, lower) = (a * (PITCH - across) + b * across, c * (PITCH - across) + d * across);
            (upper * (PITCH - down) + lower * down + PITCH * PITCH / 2).div_euclid(PITCH * PITCH)
        };
        (
            mixed(a.0, b.0, c.0, d.0) * inwards(x, self.parts.0) / INSIDE,
            mixed(a.1, b.1, c.1, d.1) * inwards(y, self.parts.1) / INSIDE,
        )
    }

    /// How far from a place what was there before the unit is after a part of it: `(passed, of)` frames.
    pub fn displacement(&self, place: (i32, i32), (passed, of): (usize, usize)) -> Displacement {
        let (x, y) = self.at(place);
        let share = |value: i32| value * passed as i32 / of as i32;
        (share(x), share(y))
    }

    /// How far from a place what is there after a part of the unit was before it.
    pub fn origin(&self, (x, y): (i32, i32), part: (usize, usize)) -> Displacement {
        let mut origin = (0, 0);
        for _ in 0..STEPS {
            let moved = self.displacement((x + origin.0, y + origin.1), part);
            let next = (-moved.0, -moved.1);
            if next == origin {
                break;
            }
            origin = next;
        }
        origin
    }

    /// Where each place of a map of the window was before the unit, in 1/256 of a place from there: nothing of those that have not moved.
    /// `each`: places along a side of a token.
    pub fn origins(&self, window: &Window, each: usize) -> Vec<(usize, Displacement)> {
        let (columns, rows) = window.tokens();
        let (tokens, samples) = window.grid().cell();
        let places = (tokens as usize * each) as i32;
        self.origins_in((columns * each, rows * each), (places, samples as i32 * PARTS))
    }

    /// The same of a map of so many columns and rows, of which so many places are as long as so many parts of a sample.
    fn origins_in(&self, (columns, rows): (usize, usize), (places, parts): (i32, i32)) -> Vec<(usize, Displacement)> {
        let centre = |at: usize| (2 * at as i32 + 1) * parts / (2 * places);
        let in_places = |way: i32| (way * 256 * places + parts / 2).div_euclid(parts);
        let origin = |at: usize| {
            let (x, y) = self.origin((centre(at % columns), centre(at / columns)), (1, 1));
            (at, (in_places(x), in_places(y)))
        };
        let all = (0..columns * rows).map(origin);
        all.filter(|(_, origin)| *origin != (0, 0)).collect()
    }

    /// Which position's value each position of the window's token map takes after the unit: of the one that is nearest to where it was.
    pub fn sources(&self, window: &Window) -> Vec<usize> {
        nearest(window.tokens(), self.origins(window, 1))
    }

    /// The same of macroblocks.
    pub fn sources_of_macroblocks(&self) -> Vec<usize> {
        nearest(self.size, self.origins_in(self.size, (1, PITCH)))
    }
}

/// The places that are nearest to those that a map of so many columns and rows has its values from.
fn nearest((columns, rows): (usize, usize), origins: Vec<(usize, Displacement)>) -> Vec<usize> {
    let mut sources: Vec<usize> = (0..columns * rows).collect();
    for (at, (x, y)) in origins {
        let along =
            |at: usize, by: i32, size: usize| (at as i32 + ((by + 128) >> 8)).clamp(0, size as i32 - 1) as usize;
        sources[at] = along(at / columns, y, rows) * columns + along(at % columns, x, columns);
    }
    sources
}

/// From an edge of the window to where its nodes begin.
const INSIDE: i32 = PITCH / 2;

/// How far a place is from the nearer edge of the window, up to [`INSIDE`].
fn inwards(place: i32, size: i32) -> i32 {
    place.min(size - place).clamp(0, INSIDE)
}

/// A map with `each` values of a position together, moved: see [`MotionField::sources`].
pub fn moved<T: Copy>(sources: &[usize], values: &[T], each: usize) -> Vec<T> {
    let taken = sources.iter().map(|from| &values[from * each..][..each]);
    taken.flatten().copied().collect()
}

/// The two nodes around a place, and how far it is behind the first.
fn between(place: i32, nodes: usize) -> (usize, usize, i32) {
    let last = nodes as i32 - 1;
    let from_first = (place - PITCH / 2).clamp(0, last * PITCH);
    let node = (from_first / PITCH).min((last - 1).max(0));
    (
        node as usize,
        ((node + 1).min(last)) as usize,
        from_first - node * PITCH,
    )
}

/// Values of one axis, row by row, with none further from those beside and over it than the slopes, or twice that where they have other signs.
fn unfolded(columns: usize, values: Vec<i32>, slopes: (i32, i32)) -> Vec<i32> {
    let one_way = |sign: i32| {
        let values = values.iter().map(|value| (sign * value).max(0));
        spread(columns, values.collect(), slopes)
    };
    let both = one_way(1).into_iter().zip(one_way(-1));
    both.map(|(more, less)| more - less).collect()
}

/// Values of 0 or more, raised until none is further below those beside and over it.
fn spread(columns: usize, mut values: Vec<i32>, (beside, over): (i32, i32)) -> Vec<i32> {
    if values.iter().all(|value| *value == 0) {
        return values;
    }
    let count = values.len();
    let raise =
        |values: &mut Vec<i32>, at: usize, from: usize, slope: i32| values[at] = values[at].max(values[from] - slope);
    for at in 0..count {
        if at % columns > 0 {
            raise(&mut values, at, at - 1, beside);
        }
        if at >= columns {
            raise(&mut values, at, at - columns, over);
        }
    }
    for at in (0..count).rev() {
        if at % columns + 1 < columns {
            raise(&mut values, at, at + 1, beside);
        }
        if at + columns < count {
            raise(&mut values, at, at + columns, over);
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bitstream::{CodingScale, Grid, SequenceHeader};
    use proptest::prelude::*;

    fn window(width: u32, height: u32, coding_scale: CodingScale) -> Window {
        let sequence = SequenceHeader {
            coding_scale,
            ..SequenceHeader::new(width, height, (25, 1))
        };
        Window::picture(Grid::new(&sequence, 16, 8, true))
    }

    fn wide() -> Window {
        window(320, 176, CodingScale::Single)
    }

    /// Some macroblocks with displacements of up to 40 samples along a row, the others without.
    fn wanted() -> impl Strategy<Value = Vec<i32>> {
        let moving = prop_oneof![3 => Just(0), 1 => -40 * PARTS..40 * PARTS];
        prop::collection::vec(moving, 20 * 11)
    }

    proptest! {
        #[test]
        fn what_moves_along_rows_is_found_where_it_was(
            wanted in wanted(), x in 0..320 * PARTS, y in 0..176 * PARTS, passed in 1usize..9,
        ) {
            // All to the right: where things meet the mesh may fold.
            let wanted: Vec<_> = wanted.into_iter().map(|x| (x.abs(), 0)).collect();
            let field = MotionField::new(&wide(), &wanted);
            let moved = field.displacement((x, y), (passed, 8));
            let found = field.origin((x + moved.0, y), (passed, 8));
            let off = (moved.0 + found.0).abs();
            prop_assert!(off <= PARTS && found.1 == 0, "{off} parts off");
        }

        #[test]
        fn nothing_leaves_the_window(along in wanted(), down in wanted(), x in 0..320 * PARTS, y in 0..176 * PARTS) {
            let wanted: Vec<_> = along.into_iter().zip(down).collect();
            let moved = MotionField::new(&wide(), &wanted).displacement((x, y), (8, 8));
            prop_assert!((0..320 * PARTS).contains(&(x + moved.0)) && (0..176 * PARTS).contains(&(y + moved.1)));
        }

        #[test]
        fn neighbours_are_drawn_along(along in wanted(), down in wanted(), at in 0usize..220) {
            let wanted: Vec<_> = along.into_iter().zip(down).collect();
            let nodes = MotionField::new(&wide(), &wanted).nodes;
            if at % 20 > 0 {
                let step = (nodes[at].0 - nodes[at - 1].0).abs();
                prop_assert!(step <= 2 * SLOPE, "{step}");
            }
        }
    }

    /// The middle of a window of 320x176 moves, 5x5 macroblocks.
    fn middle(displacement: Displacement) -> MotionField {
        let is_in = |at: usize| (7..12).contains(&(at % 20)) && (3..8).contains(&(at / 20));
        let wanted: Vec<_> = (0..220)
            .map(|at| if is_in(at) { displacement } else { (0, 0) })
            .collect();
        MotionField::new(&wide(), &wanted)
    }

    #[test]
    fn maps_move_by_whole_places() {
        let field = middle((16 * PARTS, -16 * PARTS));
        let moved = field.sources(&wide());
        // In the middle of what moved each is one to the right and one above.
        assert_eq!(moved[4 * 20 + 10], 5 * 20 + 9);
        assert_eq!((moved[0], moved[219], moved[4 * 20]), (0, 219, 80));
        assert_eq!(field.sources_of_macroblocks(), moved);
    }

    #[test]
    fn what_moves_by_less_than_half_a_place_leaves_its_map() {
        let field = middle((7 * PARTS, 0));
        assert_eq!(field.sources(&wide()), (0..220).collect::<Vec<_>>());
        let origins = field.origins(&wide(), 4);
        let (_, origin) = origins.iter().find(|(at, _)| *at == 22 * 80 + 38).unwrap();
        assert_eq!(*origin, (-7 * 256 / 4, 0), "four places to a token");
    }

    #[test]
    fn places_are_those_of_the_coded_picture() {
        for scale in CodingScale::ALL {
            let window = window(320, 176, scale);
            let wanted = vec![(12 * PARTS, 0); window.macroblocks().0 * window.macroblocks().1];
            let field = MotionField::new(&window, &wanted);
            let (columns, rows) = window.tokens();
            let middle = rows / 2 * columns + columns / 2;
            let origins = field.origins(&window, 1);
            let (_, origin) = origins.iter().find(|(at, _)| *at == middle).unwrap();
            let coded = scale.coded(12_000) as i32 * 256 / 16_000;
            assert!((origin.0 + coded).abs() <= 2, "{origin:?} for {coded} at {scale:?}");
        }
    }

    #[test]
    fn displacements_are_what_they_were() {
        // What streams were coded with: another number here is another format.
        let golden = CodingScale::ALL.map(|scale| {
            let window = window(310, 170, scale);
            let (columns, rows) = window.macroblocks();
            let wanted: Vec<_> = (0..columns * rows)
                .map(|at| match at % 23 {
                    3 => (21 * PARTS, -9 * PARTS),
                    11 => (-14 * PARTS, 30 * PARTS),
                    _ => (0, 0),
                })
                .collect();
            let field = MotionField::new(&window, &wanted);
            let mut hasher = crc32fast::Hasher::new();
            for (at, (x, y)) in field.origins(&window, 2) {
                [at as i32, x, y]
                    .iter()
                    .for_each(|number| hasher.update(&number.to_be_bytes()));
            }
            for from in field.sources(&window) {
                hasher.update(&(from as u32).to_be_bytes());
            }
            for from in field.sources_of_macroblocks() {
                hasher.update(&(from as u32).to_be_bytes());
            }
            hasher.finalize()
        });
        assert_eq!(golden, [269318387, 828060537, 4279152836, 695709706, 1301408750]);
    }
}
