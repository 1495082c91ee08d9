// SPDX-License-Identifier: MPL-2.0
//! AdamW and Muon, whose whole state can be saved, and a moving average of the weights.
//!
//! tch's optimisers cannot be stored, so a run that resumes from them would start its moments anew.

use tch::{nn, Kind, Tensor};

use super::muon;

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.99;
const EPSILON: f64 = 1e-8;
const AVERAGE_DECAY: f64 = 0.999;

struct Slot {
    name: String,
    weight: Tensor,
    first_moment: Tensor,
    second_moment: Tensor,
    average: Tensor,
    /// Share of the learning rate; 0 = frozen.
    lr_scale: f64,
    /// Muon instead of AdamW, in this kind of number.
    muon: Option<Kind>,
}

/// AdamW (Loshchilov and Hutter, 2019), and Muon where that is asked for, over the trainable variables of a store.
pub struct Optimizer {
    slots: Vec<Slot>,
    weight_decay: f64,
    steps: i64,
    /// Steps since the averages began.
    average_steps: i64,
}

impl Optimizer {
    pub fn new(vs: &nn::VarStore, weight_decay: f64) -> Optimizer {
        let mut variables: Vec<_> = vs.variables().into_iter().filter(|(_, v)| v.requires_grad()).collect();
        variables.sort_by(|a, b| a.0.cmp(&b.0));
        let slots = variables.into_iter().map(|(name, weight)| Slot {
            name,
            first_moment: weight.detach().zeros_like(),
            second_moment: weight.detach().zeros_like(),
            average: weight.detach().copy(),
            lr_scale: 1.0,
            muon: None,
            weight,
        });
        Optimizer {
            slots: slots.collect(),
            weight_decay,
            steps: 0,
            average_steps: 0,
        }
    }

    /// Leaves the weights whose name starts with `prefix` as they are from now on.
    pub fn freeze(&mut self, prefix: &str) {
        for slot in self.slots.iter_mut().filter(|slot| slot.name.starts_with(prefix)) {
            slot.lr_scale = 0.0;
            let _ = slot.weight.set_requires_grad(false);
        }
    }

    /// Sets the share of the learning rate of the weights whose name starts with `prefix`.
    pub fn scale_lr(&mut self, prefix: &str, scale: f64) {
        for slot in self.slots.iter_mut().filter(|slot| slot.name.starts_with(prefix)) {
            slot.lr_scale = scale;
        }
    }

    /// Lets Muon move the matrices and kernels whose name holds one of `parts`: those inside of a network, not those at
    /// its ends. Vectors stay with AdamW. Muon computes in `kind`.
    pub fn use_muon(&mut self, parts: &[&str], kind: Kind) {
        for slot in &mut self.slots {
            let is_inner = slot.weight.dim() > 1 && parts.iter().any(|part| slot.name.contains(part));
            slot.muon = is_inner.then_some(kind);
        }
    }

    /// Forgets the gradients.
    pub fn zero_grad(&mut self) {
        for slot in &mut self.slots {
            slot.weight.zero_grad();
        }
    }

    /// One step with the gradients clipped to `max_norm`; returns their norm. A step with a norm that is no
    /// number is skipped: one bad batch must not end a long run.
    pub fn step(&mut self, lr: f64, max_norm: f64) -> f64 {
        tch::no_grad(|| {
            let grads: Vec<Tensor> = self.slots.iter().map(|s| s.weight.grad()).collect();
            let norms: Vec<Tensor> = grads.iter().filter(|g| g.defined()).map(Tensor::norm).collect();
            let norm = f64::try_from(Tensor::stack(&norms, 0).norm()).unwrap_or(f64::NAN);
            if !norm.is_finite() {
                return norm;
            }
            self.steps += 1;
            let clip = (max_norm / norm).min(1.0);
            let bias1 = 1.0 - BETA1.powi(self.steps as i32);
            let bias2 = 1.0 - BETA2.powi(self.steps as i32);
            self.average_steps += 1;
            let steps = self.average_steps as f64;
            let decay = AVERAGE_DECAY.min((1.0 + steps) / (10.0 + steps));
            for (slot, grad) in self.slots.iter_mut().zip(&grads) {
                if !grad.defined() || slot.lr_scale == 0.0 {
                    continue;
                }
                let lr = lr * slot.lr_scale;
                if slot.weight.dim() > 1 {
                    let _ = slot.weight.g_mul_scalar_(1.0 - lr * self.weight_decay);
                }
                let grad = if clip < 1.0 { grad * clip } else { grad.shallow_clone() };
                let update = slot.update(&grad, lr, (bias1, bias2));
                let _ = slot.weight.g_sub_(&update);
                let _ = slot.average.lerp_(&slot.weight, 1.0 - decay);
            }
            norm
        })
    }

    /// Exchanges the weights with their moving average; a second call changes back.
    pub fn swap_average(&mut self) {
        tch::no_grad(|| {
            for slot in &mut self.slots {
                let weight = slot.weight.copy();
                slot.weight.copy_(&slot.average);
                slot.average.copy_(&weight);
            }
        });
    }

    /// Starts the moving average again from the present weights.
    pub fn reset_average(&mut self) {
        tch::no_grad(|| self.slots.iter_mut().for_each(|s| s.average.copy_(&s.weight)));
        self.average_steps = 0;
    }

    /// Weights, moments and averages by name, for a checkpoint.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        let mut all = vec![
            ("steps".to_string(), Tensor::from(self.steps)),
            ("average_steps".to_string(), Tensor::from(self.average_steps)),
        ];
        for slot in &self.slots {
            for (kind, tensor) in slot.parts() {
                all.push((format!("{kind}.{}", slot.name), tensor.detach().contiguous()));
            }
        }
        all
    }

    /// Takes up what [`Self::tensors`] gave. What the checkpoint lacks or has in another shape keeps its
    /// present value and is returned.
    pub fn load(&mut self, get: impl Fn(&str) -> Option<Tensor>) -> Vec<String> {
        let mut missing = Vec::new();
        tch::no_grad(|| {
            for slot in &self.slots {
                for (kind, tensor) in slot.parts() {
                    let name = format!("{kind}.{}", slot.name);
                    match get(&name) {
                        Some(saved) if saved.size() == tensor.size() => tensor.shallow_clone().copy_(&saved),
                        _ => missing.push(name),
                    }
                }
                if slot.lr_scale == 0.0 {
                    // What will not change any more has its place in what others learn as it will be exported.
                    slot.weight.shallow_clone().copy_(&slot.average);
                }
            }
        });
        for (name, steps) in [("steps", &mut self.steps), ("average_steps", &mut self.average_steps)] {
            if let Some(saved) = get(name) {
                *steps = i64::try_from(saved).unwrap_or(0);
            }
        }
        missing
    }
}

impl Slot {
    /// What the weight changes by. `bias1, bias2`: share of the moments that has come in.
    fn update(&mut self, grad: &Tensor, lr: f64, (bias1, bias2): (f64, f64)) -> Tensor {
        if let Some(kind) = self.muon {
            return muon::update(&mut self.first_moment, grad, lr, kind);
        }
        let _ = self.first_moment.lerp_(grad, 1.0 - BETA1);
        let _ = self.second_moment.lerp_(&grad.square(), 1.0 - BETA2);
        let scale = (&self.second_moment / bias2).sqrt() + EPSILON;
        &self.first_moment / scale * (lr / bias1)
    }

    fn parts(&self) -> [(&'static str, &Tensor); 4] {
        [
            ("weight", &self.weight),
            ("first_moment", &self.first_moment),
            ("second_moment", &self.second_moment),
            ("average", &self.average),
        ]
    }
}
