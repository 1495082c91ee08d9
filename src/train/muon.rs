// SPDX-License-Identifier: MPL-2.0
//! Muon (Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024): momentum whose matrix is made
//! orthogonal, so that an update has no strong and no weak directions.

use tch::{Kind, Tensor};

const MOMENTUM: f64 = 0.95;

/// Root mean square of an update at a learning rate of 1, about that of AdamW's: the two share a schedule (Liu et al.,
/// "Muon is Scalable for LLM Training", 2025).
const UPDATE_RMS: f64 = 0.2;

/// Coefficients of the quintic iteration, of Jordan et al.: singular values end between 0.7 and 1.2.
const QUINTIC: [f64; 3] = [3.4445, -4.7750, 2.0315];
const ITERATIONS: usize = 5;

/// What a weight `[outputs, ...]` changes by at a learning rate of `lr`, downhill being minus that; moves `momentum` on.
/// The iteration runs in `kind`: bf16 is enough.
pub fn update(momentum: &mut Tensor, gradient: &Tensor, lr: f64, kind: Kind) -> Tensor {
    let _ = momentum.lerp_(gradient, 1.0 - MOMENTUM);
    let ahead = gradient.lerp(momentum, MOMENTUM).flatten(1, -1);
    let matrix = orthogonalize(&(&ahead / (ahead.norm() + 1e-12)).to_kind(kind));
    let longer = matrix.size().into_iter().max().expect("a matrix has two sizes");
    let scaled = matrix.to_kind(gradient.kind()) * (lr * UPDATE_RMS * (longer as f64).sqrt());
    scaled.view(gradient.size().as_slice())
}

/// `matrix: [m, n]` of norm 1 with all its singular values brought near 1, by a Newton-Schulz iteration.
fn orthogonalize(matrix: &Tensor) -> Tensor {
    let is_tall = matrix.size()[0] > matrix.size()[1];
    let turn = |xs: Tensor| if is_tall { xs.tr() } else { xs };
    let mut xs = turn(matrix.shallow_clone());
    for _ in 0..ITERATIONS {
        let square = xs.matmul(&xs.tr());
        let polynomial = &square * QUINTIC[1] + square.matmul(&square) * QUINTIC[2];
        xs = &xs * QUINTIC[0] + polynomial.matmul(&xs);
    }
    turn(xs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    #[test]
    fn updates_have_singular_values_near_one_and_a_fixed_size() {
        // Not libtorch's generator: tests beside this one draw from that, too.
        let mut rng = StdRng::seed_from_u64(1);
        let mut random = |size: [i64; 2]| {
            let values = (0..size[0] * size[1]).map(|_| (0..4).map(|_| rng.random_range(-1.0..1.0f32)).sum());
            Tensor::from_slice(&values.collect::<Vec<f32>>()).view(size)
        };
        for size in [[32, 96], [96, 32], [48, 48]] {
            // One strong direction, as gradients have.
            let strong = random([size[0], 1]).matmul(&random([1, size[1]]));
            let gradient = random(size) + strong * 5.0;
            let (_, values, _) = orthogonalize(&(&gradient / gradient.norm())).svd(true, false);
            let (least, most) = (
                f64::try_from(values.min()).unwrap(),
                f64::try_from(values.max()).unwrap(),
            );
            assert!(least > 0.1 && most < 1.3, "{size:?}: {least} to {most}");
            for kind in [Kind::Float, Kind::BFloat16] {
                let change = update(&mut gradient.zeros_like(), &gradient, 1.0, kind);
                let rms = f64::try_from(change.square().mean(Kind::Float).sqrt()).unwrap();
                assert!((0.14..0.24).contains(&rms), "{size:?}, {kind:?}: {rms}");
            }
        }
    }
}
