//! Sessions and scoring over a small f32 model, compared with a forward pass written out here.

use luthier_core::ErrorCode;
use luthier_core::generate::{
    FinishReason, GeneratedToken, Progress, SamplingConfig, Scoring, Sequence, Session, TokenScores,
};
use luthier_core::lora::LoraTargets;
use luthier_core::lora::peft::{LoraMatrices, PeftAdapter, PeftNames};

use crate::support::{Models, TinyModel, numbers};

fn greedy(max_new_tokens: usize) -> SamplingConfig {
    SamplingConfig {
        max_new_tokens,
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        seed: 0,
        eos_token_ids: Vec::new(),
    }
}

/// A forward pass over the whole sequence in f64, from the definition. Returns logits `[ids, vocab_size]`.
fn reference(model: &TinyModel, adapter: Option<&PeftAdapter>, ids: &[u32]) -> Vec<Vec<f64>> {
    let config = &model.config;
    let weight = |name: &str| &model.tensors[name].1;
    let linear = |name: &str, x: &[f64]| -> Vec<f64> {
        let dot = |row: &[f32], x: &[f64]| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum::<f64>();
        let mut out: Vec<f64> =
            weight(&format!("{name}.weight")).chunks_exact(x.len()).map(|row| dot(row, x)).collect();
        if let Some(matrices) = adapter.and_then(|adapter| adapter.modules.get(name)) {
            let low: Vec<f64> = matrices.a.chunks_exact(x.len()).map(|row| dot(row, x)).collect();
            for (out, row) in out.iter_mut().zip(matrices.b.chunks_exact(matrices.r)) {
                *out += matrices.scale * dot(row, &low);
            }
        }
        out
    };
    let norm = |name: &str, x: &[f64]| -> Vec<f64> {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let scale = 1.0 / (mean + config.rms_norm_eps).sqrt();
        x.iter().zip(weight(name)).map(|(x, w)| x * scale * f64::from(*w)).collect()
    };
    let rotate = |x: &mut [f64], position: usize| {
        for head in x.chunks_exact_mut(config.head_dim) {
            let half = config.head_dim / 2;
            for i in 0..half {
                let angle = position as f64 * config.rope_theta.powf(-(i as f64) / half as f64);
                let (a, b) = (head[i], head[i + half]);
                head[i] = a * angle.cos() - b * angle.sin();
                head[i + half] = b * angle.cos() + a * angle.sin();
            }
        }
    };
    let add = |x: &mut [f64], y: &[f64]| x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
    let embedding = weight("model.embed_tokens.weight");
    let width = config.hidden_size;
    let mut hidden: Vec<Vec<f64>> = ids
        .iter()
        .map(|id| embedding[*id as usize * width..(*id as usize + 1) * width].iter().map(|x| f64::from(*x)).collect())
        .collect();
    for layer in 0..config.num_hidden_layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (position, x) in hidden.iter_mut().enumerate() {
            let normed = norm(&name("input_layernorm.weight"), x);
            let mut query = linear(&name("self_attn.q_proj"), &normed);
            let mut key = linear(&name("self_attn.k_proj"), &normed);
            rotate(&mut query, position);
            rotate(&mut key, position);
            keys.push(key);
            values.push(linear(&name("self_attn.v_proj"), &normed));
            let mut attention = vec![0.0; config.query_size()];
            for head in 0..config.num_attention_heads {
                let shared = head / (config.num_attention_heads / config.num_key_value_heads) * config.head_dim;
                let range = head * config.head_dim..(head + 1) * config.head_dim;
                let scores: Vec<f64> = keys
                    .iter()
                    .map(|key| {
                        let products = query[range.clone()].iter().zip(&key[shared..]).map(|(q, k)| q * k);
                        (products.sum::<f64>() / (config.head_dim as f64).sqrt()).exp()
                    })
                    .collect();
                let total: f64 = scores.iter().sum();
                for (score, value) in scores.iter().zip(&values) {
                    for (out, value) in attention[range.clone()].iter_mut().zip(&value[shared..]) {
                        *out += score / total * value;
                    }
                }
            }
            add(x, &linear(&name("self_attn.o_proj"), &attention));
            let normed = norm(&name("post_attention_layernorm.weight"), x);
            let gate = linear(&name("mlp.gate_proj"), &normed);
            let up = linear(&name("mlp.up_proj"), &normed);
            let inner: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
            add(x, &linear(&name("mlp.down_proj"), &inner));
        }
    }
    let head = if config.tie_word_embeddings { "model.embed_tokens" } else { "lm_head" };
    hidden.iter().map(|x| linear(head, &norm("model.norm.weight", x))).collect()
}

fn adapter(model: &TinyModel) -> PeftAdapter {
    let mut modules = std::collections::BTreeMap::new();
    for (index, name) in model.tensors.keys().filter(|name| name.contains("_proj")).enumerate() {
        let shape = &model.tensors[name].0;
        // Ranks and factors differ between layers that share an input.
        let (r, scale) = (2 + index % 3, 1.0 + index as f64 / 8.0);
        let matrices = LoraMatrices {
            r,
            scale,
            in_features: shape[1],
            out_features: shape[0],
            a: numbers(r * shape[1], 100 + index as u32),
            b: numbers(r * shape[0], 200 + index as u32).into_iter().map(|x| 0.1 * x).collect(),
        };
        modules.insert(name.strip_suffix(".weight").unwrap().to_owned(), matrices);
    }
    // One module without matrices: the base path and the adapter path must mix.
    modules.remove("model.layers.0.self_attn.k_proj");
    PeftAdapter {
        r: 3,
        lora_alpha: 6.0,
        targets: LoraTargets::default(),
        lora_dropout: 0.0,
        use_rslora: false,
        modules,
        names: PeftNames::new(&model.config),
        metadata: None,
    }
}

fn run(session: &mut Session) -> (Vec<GeneratedToken>, FinishReason) {
    let mut tokens = Vec::new();
    loop {
        match session.advance().unwrap() {
            Progress::Prefill { done, total } => assert!(done < total),
            Progress::Token { token, finish } => {
                tokens.push(token);
                if let Some(reason) = finish {
                    assert_eq!(session.advance().unwrap(), Progress::Finished);
                    return (tokens, reason);
                }
            }
            Progress::Finished => panic!("finished without a last token"),
        }
    }
}

fn score(sequence: Box<dyn Sequence>, ids: &[u32], top: usize) -> TokenScores {
    let mut scoring = Scoring::new(sequence, ids.to_vec(), top).unwrap();
    loop {
        if let Some(scores) = scoring.advance().unwrap() {
            return scores;
        }
    }
}

fn log_softmax(logits: &[f64], id: u32) -> f64 {
    logits[id as usize] - logits.iter().map(|logit| logit.exp()).sum::<f64>().ln()
}

fn argmax(logits: &[f64]) -> u32 {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32
}

fn prompt(length: usize) -> Vec<u32> {
    (0..length as u32).map(|i| (i * 37 + 11) % 96).collect()
}

#[test]
fn cached_decoding_equals_the_full_forward_pass() {
    for (tied, with_adapter, threads) in [(true, false, 1), (false, false, 2), (true, true, 2), (false, true, 1)] {
        let tiny = TinyModel::new(tied);
        let peft = with_adapter.then(|| adapter(&tiny));
        for sequence in Models::new(&tiny, threads).sequences(peft.as_ref()) {
            // 130 tokens: two prefill chunks on the processor, whose cache grows past two blocks while decoding.
            let prompt = prompt(130);
            let (tokens, reason) = run(&mut Session::new(sequence, prompt.clone(), greedy(12)).unwrap());
            assert_eq!((tokens.len(), reason), (12, FinishReason::Length));
            let mut ids = prompt;
            ids.extend(tokens.iter().map(|token| token.id));
            let logits = reference(&tiny, peft.as_ref(), &ids);
            for (index, token) in tokens.iter().enumerate() {
                let row = &logits[130 + index - 1];
                assert_eq!(token.id, argmax(row), "token {index}");
                let exact = log_softmax(row, token.id);
                assert!((f64::from(token.logprob) - exact).abs() < 1e-5, "token {index}: {} {exact}", token.logprob);
            }
        }
    }
}

#[test]
fn scores_equal_the_full_forward_pass() {
    for with_adapter in [false, true] {
        let tiny = TinyModel::new(false);
        let peft = with_adapter.then(|| adapter(&tiny));
        let ids = prompt(150);
        let logits = reference(&tiny, peft.as_ref(), &ids);
        for sequence in Models::new(&tiny, 2).sequences(peft.as_ref()) {
            equal_scores(&score(sequence, &ids, 3), &ids, &logits);
        }
    }
}

/// Scores with three top logits beside the logits `[150, 96]`.
fn equal_scores(scores: &TokenScores, ids: &[u32], logits: &[Vec<f64>]) {
    assert_eq!((scores.logprobs.len(), scores.top_token_ids.len(), scores.top_logits.len()), (150, 450, 450));
    assert!(scores.logprobs[0].is_nan());
    for position in 0..150 {
        let row = &logits[position];
        if position > 0 {
            let exact = log_softmax(&logits[position - 1], ids[position]);
            assert!((f64::from(scores.logprobs[position]) - exact).abs() < 1e-5, "position {position}");
        }
        let mut order: Vec<u32> = (0..96).collect();
        order.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]));
        assert_eq!(scores.top_token_ids[3 * position..3 * position + 3], order[..3], "position {position}");
        for (id, logit) in order[..3].iter().zip(&scores.top_logits[3 * position..]) {
            assert!((row[*id as usize] - f64::from(*logit)).abs() < 1e-5, "position {position}");
        }
    }
}

#[test]
fn scoring_one_id_gives_its_top_logits() {
    for sequence in Models::new(&TinyModel::new(true), 1).sequences(None) {
        let scores = score(sequence, &[5], 2);
        assert!(scores.logprobs.len() == 1 && scores.logprobs[0].is_nan());
        assert_eq!((scores.top_token_ids.len(), scores.top_logits.len()), (2, 2));
    }
}

#[test]
fn a_session_ends_with_an_end_of_sequence_id() {
    let models = Models::new(&TinyModel::new(true), 1);
    let start = |sampling| Session::new(models.sequence(None), prompt(5), sampling).unwrap();
    let (tokens, _) = run(&mut start(greedy(6)));
    let eos = tokens[2].id;
    let first = tokens.iter().position(|token| token.id == eos).unwrap();
    let sampling = SamplingConfig { eos_token_ids: vec![eos], ..greedy(6) };
    let (ended, reason) = run(&mut start(sampling));
    assert_eq!((ended.as_slice(), reason), (&tokens[..=first], FinishReason::Eos));
}

#[test]
fn generation_stops_at_the_end_of_the_context() {
    let models = Models::new(&TinyModel::new(true), 1);
    for sequence in models.sequences(None) {
        let (tokens, reason) = run(&mut Session::new(sequence, prompt(157), greedy(50)).unwrap());
        assert_eq!((tokens.len(), reason), (3, FinishReason::Length));
    }
    let Err(error) = Session::new(models.sequence(None), prompt(160), greedy(1)) else {
        panic!("a prompt that fills the context")
    };
    assert_eq!(error.code, ErrorCode::SequenceTooLong);
    assert!(error.message.contains("has 160 tokens") && error.message.contains("context is 160"), "{error}");
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let models = Models::new(&TinyModel::new(true), 1);
    let sequence = || models.sequence(None);
    let code = |prompt: Vec<u32>, sampling| Session::new(sequence(), prompt, sampling).err().map(|error| error.code);
    assert_eq!(code(vec![], greedy(1)), Some(ErrorCode::InvalidArgument));
    assert_eq!(code(vec![96], greedy(1)), Some(ErrorCode::InvalidArgument));
    assert_eq!(code(vec![1], greedy(0)), Some(ErrorCode::InvalidArgument));
    assert_eq!(code(vec![1], greedy(1)), None);
    let scoring = |ids: Vec<u32>, top| Scoring::new(sequence(), ids, top).err().map(|error| error.code);
    assert_eq!(scoring(vec![], 0), Some(ErrorCode::InvalidArgument));
    assert_eq!(scoring(vec![1], 97), Some(ErrorCode::InvalidArgument));
    assert_eq!(scoring(prompt(161), 0), Some(ErrorCode::SequenceTooLong));
    assert_eq!(scoring(prompt(160), 0), None);
}

#[test]
fn interleaved_sessions_do_not_disturb_each_other() {
    let tiny = TinyModel::new(true);
    let models = Models::new(&tiny, 2);
    let peft = adapter(&tiny);
    let sampling = |seed| SamplingConfig { temperature: 0.9, top_k: 20, top_p: 0.95, seed, ..greedy(10) };
    // Of both kinds, one after another, so that those of a kind share what they compute with.
    let requests = || {
        let requests = [(prompt(4), None, 1), (prompt(140), Some(&peft), 2), (prompt(9), None, 3)];
        requests.into_iter().flat_map(|(prompt, adapter, seed)| {
            models.sequences(adapter).map(|sequence| Session::new(sequence, prompt.clone(), sampling(seed)).unwrap())
        })
    };
    let alone: Vec<_> = requests().map(|mut session| run(&mut session).0).collect();
    let mut together = vec![Vec::new(); 6];
    let mut sessions: Vec<Session> = requests().collect();
    loop {
        let mut busy = false;
        for (session, tokens) in sessions.iter_mut().zip(&mut together) {
            match session.advance().unwrap() {
                Progress::Finished => {}
                Progress::Prefill { .. } => busy = true,
                Progress::Token { token, .. } => {
                    tokens.push(token);
                    busy = true;
                }
            }
        }
        if !busy {
            break;
        }
    }
    assert_eq!(alone, together);
    assert_ne!(alone[0], alone[4], "different prompts and seeds give different tokens");
}
