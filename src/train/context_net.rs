// SPDX-License-Identifier: MPL-2.0
//! The float twin of the integer context model: the same numbers, rounded the same way, with gradients.

use anyhow::Result;
use tch::{nn, Kind, Tensor};

use super::quantized::{activate, set, sums_of_rows, to_i32, Linear};
use crate::bitstream::FSQ_LEVELS;
use crate::entropy::{rows_before, ContextWeights, Region, ACTIVATION_SCALE, DIGITS, LOGIT_SCALE, TABLE_SCALE};
use crate::model::powers;

const WIDTH: i64 = 96;
const HEAD_WIDTH: i64 = 32;

/// The network; see [`crate::entropy::ContextModel`] for its shape.
pub struct ContextNet {
    tables: Tensor,
    table_bias: Tensor,
    trunk: Linear,
    hidden: Vec<Linear>,
    earlier: Vec<Tensor>,
    output: Vec<Linear>,
}

impl ContextNet {
    pub fn new(vs: nn::Path) -> ContextNet {
        let rows = ContextWeights::TABLE_ROWS as i64;
        let small = nn::Init::Randn { mean: 0.0, stdev: 0.05 };
        let per_digit = |name: &str, inputs, outputs: &dyn Fn(usize) -> i64| {
            (0..DIGITS)
                .map(|k| Linear::new(&vs / name / k as i64, inputs, outputs(k)))
                .collect()
        };
        ContextNet {
            tables: vs.var("tables", &[rows, WIDTH], small),
            table_bias: vs.var("table_bias", &[WIDTH], nn::Init::Const(0.5)),
            trunk: Linear::new(&vs / "trunk", WIDTH, WIDTH),
            hidden: per_digit("hidden", WIDTH, &|_| HEAD_WIDTH),
            earlier: (0..DIGITS)
                .map(|k| (&vs / "earlier").var(&k.to_string(), &[earlier_rows(k).max(1), HEAD_WIDTH], small))
                .collect(),
            output: per_digit("output", HEAD_WIDTH, &|k| FSQ_LEVELS[k].into()),
        }
    }

    /// Cost of tokens in bits, `[n]`. `rows: [n, 84]` i64 are the rows of the tables that each token's context
    /// selects; `digits: [n, 6]` i64. `quantize`: with the rounding of the integer model.
    pub fn bits(&self, rows: &Tensor, digits: &Tensor, quantize: bool) -> Tensor {
        let n = rows.size()[0];
        let summed = sums_of_rows(&self.tables, rows);
        let features = activate(&(summed + &self.table_bias), quantize);
        let trunk = activate(&self.trunk.forward(&features, quantize), quantize);
        let mut bits = Tensor::zeros([n], (Kind::Float, rows.device()));
        for k in 0..DIGITS {
            let mut hidden = self.hidden[k].forward(&trunk, quantize);
            for j in 0..k {
                let row = digits.select(1, j as i64) + earlier_rows(j);
                hidden += self.earlier[k].index_select(0, &row);
            }
            let logits = self.output[k].forward(&activate(&hidden, quantize), quantize);
            // Logits are log2 odds.
            let log_probabilities = (logits * std::f64::consts::LN_2).log_softmax(1, Kind::Float);
            let digit = digits.select(1, k as i64).unsqueeze(1);
            bits -= log_probabilities.gather(1, &digit, false).squeeze_dim(1) / std::f64::consts::LN_2;
        }
        bits
    }

    /// Whether [`Self::import`] can take such numbers: imported Cosmos models have other ones that have learned nothing.
    pub fn fits(weights: &ContextWeights) -> bool {
        (weights.width, weights.head_width) == (WIDTH as usize, HEAD_WIDTH as usize)
    }

    /// Inverse of [`Self::export`]: to go on from a model whose floats are gone. Fails if it is of another size.
    pub fn import(&mut self, weights: &ContextWeights) -> Result<()> {
        let table_scale = f64::from(TABLE_SCALE);
        set(
            &mut self.tables,
            &(Tensor::from_slice(&weights.tables).to_kind(Kind::Double) / table_scale),
        )?;
        set(
            &mut self.table_bias,
            &(Tensor::from_slice(&weights.table_bias).to_kind(Kind::Double) / table_scale),
        )?;
        self.trunk.import(&weights.trunk, |_| ACTIVATION_SCALE)?;
        for k in 0..DIGITS {
            self.hidden[k].import(&weights.hidden[k], |_| ACTIVATION_SCALE)?;
            self.output[k].import(&weights.output[k], |_| LOGIT_SCALE)?;
            let unit = self.hidden[k].steps().squeeze_dim(1) / f64::from(ACTIVATION_SCALE);
            let rows = Tensor::from_slice(&weights.earlier[k]).f_view([-1, HEAD_WIDTH])?;
            set(&mut self.earlier[k].narrow(0, 0, earlier_rows(k)), &(rows * unit))?;
        }
        Ok(())
    }

    /// The integers that a decoder computes with.
    pub fn export(&self) -> ContextWeights {
        let table_scale = f64::from(TABLE_SCALE);
        let limit = f64::from(i16::MAX);
        let tables = (&self.tables * table_scale)
            .round()
            .clamp(-limit, limit)
            .to_kind(Kind::Int16);
        let earlier = (0..DIGITS).map(|k| {
            let scale = f64::from(ACTIVATION_SCALE) / self.hidden[k].steps().squeeze_dim(1);
            let rows = (&self.earlier[k] * scale).round().clamp(-8e6, 8e6);
            to_i32(&rows.narrow(0, 0, earlier_rows(k)))
        });
        ContextWeights {
            width: WIDTH as usize,
            head_width: HEAD_WIDTH as usize,
            tables: Vec::try_from(tables.flatten(0, -1)).expect("i16 tables"),
            table_bias: to_i32(&(&self.table_bias * table_scale).round()),
            trunk: self.trunk.export(|_| ACTIVATION_SCALE),
            hidden: self.hidden.iter().map(|l| l.export(|_| ACTIVATION_SCALE)).collect(),
            earlier: earlier.collect(),
            output: self.output.iter().map(|l| l.export(|_| LOGIT_SCALE)).collect(),
            powers: powers(),
        }
    }
}

fn earlier_rows(digit: usize) -> i64 {
    ContextWeights::earlier_rows(digit) as i64
}

/// The table rows that the context of every token of a map selects: `[h * w, 84]` i64, row by row. The maps
/// are `[h, w, 6]` i64; anchors, where column + row is even, do not see their own map.
pub fn context_rows(map: &Tensor, previous: Option<&Tensor>, older: Option<&Tensor>, region: Region) -> Tensor {
    let (h, w, _) = map.size3().expect("a map has three dimensions");
    let absent: Vec<i64> = FSQ_LEVELS.iter().map(|&l| l.into()).collect();
    let absent = Tensor::from_slice(&absent).to_device(map.device());
    let nothing = absent.view([1, 1, -1]).expand([h + 2, w + 2, -1], false);
    let pad = |map: &Tensor| {
        let padded = nothing.copy();
        padded.narrow(0, 1, h).narrow(1, 1, w).copy_(map);
        padded
    };
    let phases: Vec<i64> = (0..h * w)
        .map(|at| region.phase((at % w) as usize, (at / w) as usize) as i64)
        .collect();
    let is_anchor = Tensor::from_slice(&phases)
        .to_device(map.device())
        .view([h, w, 1])
        .eq(0);
    let units = [Some(map), previous, older].map(|m| m.map_or_else(|| nothing.shallow_clone(), &pad));
    let bases: Vec<i64> = (0..DIGITS).map(|k| rows_before(k) as i64).collect();
    let bases = Tensor::from_slice(&bases).to_device(map.device());
    let sources: Vec<Tensor> = crate::entropy::SOURCES
        .iter()
        .enumerate()
        .map(|(source, &(unit, dx, dy))| {
            let (dx, dy) = if unit == 0 { region.neighbour(dx, dy) } else { (dx, dy) };
            let tokens = units[usize::from(unit)]
                .narrow(0, 1 + dy as i64, h)
                .narrow(1, 1 + dx as i64, w);
            let tokens = if unit == 0 {
                absent.where_self(&is_anchor, &tokens)
            } else {
                tokens
            };
            tokens + &bases + (source * crate::entropy::ROWS_PER_SOURCE) as i64
        })
        .collect();
    Tensor::cat(&sources, 2).view([h * w, -1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::{as_wanted, BitCounter, ContextModel, Masking, TokenContext, TokenMap};
    use tch::Device;

    #[test]
    fn the_integer_model_costs_what_its_float_twin_says() {
        tch::manual_seed(3);
        let _no_grad = tch::no_grad_guard();
        let vs = nn::VarStore::new(Device::Cpu);
        let net = ContextNet::new(vs.root());
        for mut variable in vs.trainable_variables() {
            let noise = variable.randn_like() * 0.05;
            let _ = variable.g_add_(&noise);
        }
        let integer = ContextModel::new(net.export()).unwrap();
        let random = || {
            let digits: Vec<_> = FSQ_LEVELS
                .iter()
                .map(|&l| Tensor::randint(l.into(), [5, 7], (Kind::Int64, Device::Cpu)))
                .collect();
            Tensor::stack(&digits, 2)
        };
        let as_map = |tensor: &Tensor| {
            let mut map = TokenMap::zero(7, 5);
            let values = Vec::<i64>::try_from(tensor.flatten(0, -1)).unwrap();
            map.tokens
                .as_flattened_mut()
                .iter_mut()
                .zip(values)
                .for_each(|(d, v)| *d = v as u8);
            map
        };
        let (older, previous, map) = (random(), random(), random());
        for known in 0..3 {
            let (p, o) = ((known > 0).then_some(&previous), (known > 1).then_some(&older));
            let float = net
                .bits(&context_rows(&map, p, o, Region::WHOLE), &map.flatten(0, 1), true)
                .sum(Kind::Double);
            let float = f64::try_from(float).unwrap();
            let mut history = TokenContext::default();
            [o, p].into_iter().flatten().for_each(|map| history.push(as_map(map)));
            let mut counter = BitCounter::default();
            integer
                .code(
                    &mut counter,
                    &history,
                    (Masking::None, &as_wanted),
                    Region::WHOLE,
                    &mut as_map(&map),
                )
                .unwrap();
            let exact = counter.0;
            assert!(
                (float / exact - 1.0).abs() < 0.01,
                "{float} bits in floats, {exact} in integers"
            );
        }
        let mut other = ContextNet::new(nn::VarStore::new(Device::Cpu).root());
        other.import(&net.export()).unwrap();
        assert_eq!(other.export(), net.export(), "a model can be taken up again");
    }
}
