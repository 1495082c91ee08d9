// SPDX-License-Identifier: MPL-2.0
//! What stands in for the latents of positions that were lost.

use crate::codec::geometry::NEIGHBOURS;
use crate::entropy::LatentMap;

/// No latent that is sent is larger; what is made up must not grow from unit to unit.
const LARGEST: i64 = 1 << 28;

/// Lets positions that have not come follow their neighbours: each changes from `before` as those of its four neighbours that have come do
/// in the mean. Where none has, `latents` stay.
pub fn follow_neighbours(latents: &mut LatentMap, before: &LatentMap, present: &[bool]) {
    let width = latents.width;
    for at in (0..present.len()).filter(|at| !present[*at]) {
        let (x, y) = ((at % width) as isize, (at / width) as isize);
        let neighbours = NEIGHBOURS.iter().filter_map(|(dx, dy)| latents.index(x + dx, y + dy));
        let neighbours: Vec<usize> = neighbours.filter(|at| present[*at]).collect();
        for channel in 0..latents.channels {
            let value = |map: &LatentMap, at: usize| i64::from(map.position(at)[channel]);
            let sum: i64 = neighbours
                .iter()
                .map(|&at| value(latents, at) - value(before, at))
                .sum();
            let followed = value(before, at) + sum / neighbours.len().max(1) as i64;
            latents.values[at * latents.channels + channel] = followed.clamp(-LARGEST, LARGEST) as i32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_positions_change_as_their_neighbours_do_in_the_mean() {
        let map = |values: [i32; 6]| LatentMap {
            values: values.to_vec(),
            ..LatentMap::zero(3, 2, 1)
        };
        let before = map([0, 10, 20, 30, 40, 50]);
        let mut latents = map([8, 99, 24, 99, 42, 99]);
        follow_neighbours(&mut latents, &before, &[true, false, true, false, true, false]);
        assert_eq!(
            latents,
            map([8, 10 + (8 + 4 + 2) / 3, 24, 30 + (8 + 2) / 2, 42, 50 + (4 + 2) / 2])
        );
    }

    #[test]
    fn the_largest_values_do_not_overflow() {
        let map = |value: i32| LatentMap {
            values: vec![value; 9],
            ..LatentMap::zero(3, 3, 1)
        };
        let (before, mut latents) = (map(i32::MIN), map(i32::MAX));
        let present: Vec<bool> = (0..9).map(|at| at != 4).collect();
        follow_neighbours(&mut latents, &before, &present);
        assert!(i64::from(latents.position(4)[0]) <= LARGEST);
        let (before, mut latents) = (map(i32::MAX), map(i32::MAX));
        follow_neighbours(&mut latents, &before, &present);
        assert_eq!(i64::from(latents.position(4)[0]), LARGEST);
    }

    #[test]
    fn positions_without_a_neighbour_that_has_come_stay() {
        let before = LatentMap::zero(2, 2, 3);
        let mut latents = before.clone();
        latents.values[0] = 7;
        follow_neighbours(&mut latents, &before, &[true, false, false, false]);
        assert_eq!(latents.position(3), [0, 0, 0]);
        assert_eq!(latents.position(1), [7, 0, 0]);
    }
}
