//! Speed of the parts of a training step, each alone: `bench_parts MODEL THREADS TOKENS [NAME]`, where only parts whose names begin so are wanted.
//!
//! Prints one JSON line a part: milliseconds, and 10⁹ operations a second where it is a matrix product. `times` says how often a step of
//! the whole model does it.

use std::path::Path;
use std::time::Instant;

use luthier_core::load;
use luthier_core::model::{BaseModel, LINEAR_MODULES};
use luthier_core::ops::cpu::{CpuBuffer, CpuOps};
use luthier_core::ops::{
    AttentionGrads, AttentionInputs, AttentionSaved, LinearGradTerm, Matrix, MatrixMut, Ops, View, ViewMut,
};
use luthier_core::{ModelConfig, Result as EngineResult, WeightStorage};

const USAGE: &str = "usage: bench_parts MODEL THREADS TOKENS [NAME]";
/// Tokens of a sequence.
const SEQ: usize = 256;
const RANK: usize = 8;

struct Bench {
    ops: CpuOps<f32>,
    config: ModelConfig,
    rows: usize,
    /// Beginning of the names of the parts to measure.
    only: String,
}

impl Bench {
    fn numbers(&self, len: usize) -> EngineResult<CpuBuffer<f32>> {
        let values: Vec<f32> = (0..len).map(|i| ((i * 7919) % 1013) as f32 / 1013.0 - 0.5).collect();
        let mut buffer = self.ops.allocate(len)?;
        self.ops.write(&values, ViewMut::from(&mut buffer))?;
        Ok(buffer)
    }

    /// The median of several runs after one.
    fn report(
        &self,
        part: &str,
        times: usize,
        flops: f64,
        mut work: impl FnMut() -> EngineResult<()>,
    ) -> EngineResult<()> {
        if !part.starts_with(&self.only) {
            return Ok(());
        }
        work()?;
        let mut seconds = Vec::new();
        for _ in 0..7 {
            let begin = Instant::now();
            work()?;
            seconds.push(begin.elapsed().as_secs_f64());
        }
        seconds.sort_unstable_by(f64::total_cmp);
        let median = seconds[seconds.len() / 2];
        let gflops = (flops > 0.0).then(|| flops / median / 1e9);
        let line = serde_json::json!({
            "part": part, "ms": median * 1e3, "gflops": gflops, "times": times, "ms_per_step": median * 1e3 * times as f64,
        });
        println!("{line}");
        Ok(())
    }

    fn linears(&self, base: &BaseModel<CpuOps<f32>>) -> EngineResult<()> {
        let (rows, layers) = (self.rows, self.config.num_hidden_layers);
        for module in LINEAR_MODULES {
            let linear = base.layers[0].linear(module);
            let (out, input) = module.shape(&self.config);
            let flops = 2.0 * (rows * out * input) as f64;
            let (x, mut y) = (self.numbers(rows * input)?, self.numbers(rows * out)?);
            self.report(&format!("{} forward", module.path()), layers, flops, || {
                let y = ViewMut::from(&mut y);
                self.ops.linear_forward(rows, View::from(&x), &linear.weight, None, None, None, y)
            })?;
            let mut dx = self.numbers(rows * input)?;
            self.report(&format!("{} input gradient", module.path()), layers, flops, || {
                let term = LinearGradTerm { output_grad: View::from(&y), weight: &linear.weight };
                self.ops.linear_grad_input(rows, &[term], None, ViewMut::from(&mut dx))
            })?;
        }
        Ok(())
    }

    fn head(&self, base: &BaseModel<CpuOps<f32>>) -> EngineResult<()> {
        let (vocabulary, hidden) = (self.config.vocab_size, self.config.hidden_size);
        let rows = self.rows / 2;
        let flops = 2.0 * (rows * vocabulary * hidden) as f64;
        let (x, mut logits) = (self.numbers(rows * hidden)?, self.numbers(rows * vocabulary)?);
        let weight = base.output_weight();
        self.report("output layer forward", 1, flops, || {
            self.ops.linear_forward(rows, View::from(&x), weight, None, None, None, ViewMut::from(&mut logits))
        })?;
        let (mut losses, mut targets) = (self.numbers(rows)?, self.ops.allocate_indices(rows)?);
        self.ops.write_indices(&vec![17; rows], &mut targets)?;
        self.report("cross-entropy", 1, 0.0, || {
            let (logits, losses) = (ViewMut::from(&mut logits), ViewMut::from(&mut losses));
            self.ops.cross_entropy(vocabulary, &targets, 0.0, Some(1e-3), logits, losses)
        })?;
        let mut dx = self.numbers(rows * hidden)?;
        self.report("output layer input gradient", 1, flops, || {
            let term = LinearGradTerm { output_grad: View::from(&logits), weight };
            self.ops.linear_grad_input(rows, &[term], None, ViewMut::from(&mut dx))
        })
    }

    fn low_rank(&self) -> EngineResult<()> {
        let (rows, inner, layers) = (self.rows, self.config.intermediate_size, self.config.num_hidden_layers);
        let flops = 2.0 * (rows * inner * RANK) as f64;
        let (x, a, mut h) = (self.numbers(rows * inner)?, self.numbers(RANK * inner)?, self.numbers(rows * RANK)?);
        let matrix = |columns| move |buffer| Matrix { view: View::from(buffer), row_stride: columns, column_stride: 1 };
        self.report("low rank: x · Aᵀ, intermediate size", layers, flops, || {
            let right = Matrix { view: View::from(&a), row_stride: 1, column_stride: inner };
            let out = MatrixMut { view: ViewMut::from(&mut h), row_stride: RANK, column_stride: 1 };
            self.ops.gemm(rows, RANK, inner, 2.0, matrix(inner)(&x), right, false, out)
        })?;
        let mut grad = self.numbers(RANK * inner)?;
        self.report("low rank: gradient of a matrix, intermediate size", 2 * layers, flops, || {
            let left = Matrix { view: View::from(&h), row_stride: 1, column_stride: RANK };
            let out = MatrixMut { view: ViewMut::from(&mut grad), row_stride: inner, column_stride: 1 };
            self.ops.gemm(RANK, inner, rows, 1.0, left, matrix(inner)(&x), true, out)
        })
    }

    fn rows_of_numbers(&self) -> EngineResult<()> {
        let (rows, layers) = (self.rows, self.config.num_hidden_layers);
        let (hidden, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let (mut gate, mut up, mut out) =
            (self.numbers(rows * inner)?, self.numbers(rows * inner)?, self.numbers(rows * inner)?);
        self.report("swiglu", layers, 0.0, || {
            self.ops.swiglu(rows * inner, View::from(&gate), View::from(&up), ViewMut::from(&mut out))
        })?;
        let mut activated = self.numbers(rows * inner)?;
        self.report("swiglu backward", layers, 0.0, || {
            let (gate, up, activated) =
                (ViewMut::from(&mut gate), ViewMut::from(&mut up), ViewMut::from(&mut activated));
            self.ops.swiglu_backward(rows * inner, View::from(&out), gate, up, activated)
        })?;
        let (x, weight, mut normed) =
            (self.numbers(rows * hidden)?, self.numbers(hidden)?, self.numbers(rows * hidden)?);
        let mut factors = self.numbers(rows)?;
        self.report("rms norm", 4 * layers, 0.0, || {
            let (out, factors) = (ViewMut::from(&mut normed), ViewMut::from(&mut factors));
            self.ops.rms_norm(rows, hidden, View::from(&x), &weight, 1e-5, out, factors)
        })?;
        let mut dx = self.numbers(rows * hidden)?;
        self.report("rms norm backward", 2 * layers, 0.0, || {
            let (factors, grad) = (View::from(&factors), View::from(&normed));
            self.ops.rms_norm_backward(
                rows,
                hidden,
                View::from(&x),
                &weight,
                factors,
                grad,
                ViewMut::from(&mut dx),
                None,
            )
        })
    }

    fn attention(&self) -> EngineResult<()> {
        let (rows, config, layers) = (self.rows, &self.config, self.config.num_hidden_layers);
        let shape = config.attention_shape();
        let (wide, narrow) = (rows * config.query_size(), rows * config.key_value_size());
        let mut borders = self.ops.allocate_indices(rows / SEQ + 1)?;
        self.ops.write_indices(&(0..=rows / SEQ).map(|i| (i * SEQ) as u32).collect::<Vec<_>>(), &mut borders)?;
        let (q, k, v) = (self.numbers(wide)?, self.numbers(narrow)?, self.numbers(narrow)?);
        let (mut out, mut sums) = (self.numbers(wide)?, self.numbers(rows * shape.heads)?);
        let inputs = || AttentionInputs { query: View::from(&q), key: View::from(&k), value: View::from(&v) };
        let flops = 2.0 * (wide * SEQ) as f64;
        self.report("attention", layers, flops, || {
            self.ops.attention(shape, &borders, inputs(), ViewMut::from(&mut out), ViewMut::from(&mut sums))
        })?;
        let (mut dq, mut dk, mut dv) = (self.numbers(wide)?, self.numbers(narrow)?, self.numbers(narrow)?);
        let grad = self.numbers(wide)?;
        self.report("attention backward", layers, 2.5 * flops, || {
            let saved = AttentionSaved {
                output: View::from(&out),
                log_sum_exp: View::from(&sums),
                output_grad: View::from(&grad),
            };
            let grads = AttentionGrads {
                query: ViewMut::from(&mut dq),
                key: ViewMut::from(&mut dk),
                value: ViewMut::from(&mut dv),
            };
            self.ops.attention_backward(shape, &borders, inputs(), saved, grads)
        })
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (path, threads, rows, only) = match arguments.as_slice() {
        [path, threads, rows] => (path, threads, rows, String::new()),
        [path, threads, rows, only] => (path, threads, rows, only.clone()),
        _ => return Err(USAGE.into()),
    };
    let (threads, rows) = (threads.parse()?, rows.parse::<usize>()?.next_multiple_of(SEQ));
    let ops = CpuOps::<f32>::new(threads);
    let base = BaseModel::load(&ops, &*load::open(Path::new(path))?, WeightStorage::Stored)?;
    let bench = Bench { ops, config: base.config.clone(), rows, only };
    bench.linears(&base)?;
    bench.head(&base)?;
    bench.low_rank()?;
    bench.attention()?;
    bench.rows_of_numbers()?;
    Ok(())
}
