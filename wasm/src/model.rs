//! A decoder of Phi-3's or Llama's kind: its sizes, its weights, and where a pass keeps its numbers.

use crate::attention::AttentionShape;
use crate::linear::{Linear, Then};
use crate::table::Table;

/// Sizes, named as in the model's `config.json`.
pub struct Config {
    pub hidden: usize,
    pub intermediate: usize,
    pub attention: AttentionShape,
    /// Numbers of each head that are turned to its position, the first ones.
    pub rotary_dim: usize,
    pub vocab: usize,
    pub epsilon: f32,
    /// Products take activations as they are, not rounded to int8.
    pub f32_activations: bool,
}

/// Weights of one layer.
#[derive(Default)]
pub struct Layer {
    /// f32 `[hidden]`
    pub input_norm: Vec<f32>,
    /// `[(heads + 2 * kv_heads) * head_dim, hidden]`
    pub qkv: Option<Linear>,
    /// `[hidden, heads * head_dim]`
    pub output: Option<Linear>,
    /// f32 `[hidden]`
    pub post_attention_norm: Vec<f32>,
    /// `[2 * intermediate, hidden]`, gates first; its outputs are `Order::Paired`
    pub gate_up: Option<Linear>,
    /// `[hidden, intermediate]`
    pub down: Option<Linear>,
}

/// All weights.
pub struct Model {
    pub config: Config,
    pub layers: Vec<Layer>,
    /// int8 or int4 `[vocab, hidden]`
    pub embedding: Option<Linear>,
    /// The embedding where it is not quantized, `[vocab, hidden]`.
    pub table: Option<Table>,
    /// `[vocab, hidden]`; absent when the embedding is used for it.
    pub head: Option<Linear>,
    /// f32 `[hidden]`
    pub final_norm: Vec<f32>,
    /// f32 `[context, rotary_dim / 2]` each
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
}

impl Model {
    /// `out` f32 `[m, n]` = `x` f32 `[m, k]` times `linear`.
    pub fn product(&self, linear: &Option<Linear>, x: &[f32], m: usize, scratch: &mut Vec<u8>, out: &mut [f32]) {
        self.product_then(linear, x, m, scratch, out, &|_, _| {});
    }

    /// `product`, and what follows on its columns as `Linear::run` tells.
    pub fn product_then(
        &self,
        linear: &Option<Linear>,
        x: &[f32],
        m: usize,
        scratch: &mut Vec<u8>,
        out: &mut [f32],
        then: &Then,
    ) {
        let linear = linear.as_ref().unwrap();
        if self.config.f32_activations {
            linear.run_f32(x, m, out, then);
        } else {
            linear.run(x, m, scratch, out, then);
        }
    }

    /// The embedding of token `id`, f32 `[hidden]`.
    pub fn embed(&self, id: usize, out: &mut [f32]) {
        match &self.table {
            Some(table) => table.row(id, out),
            None => self.embedding.as_ref().unwrap().row(id, out),
        }
    }
}
