//! The adapter that a run starts from, beside PEFT's.

use std::sync::Arc;

use luthier_core::lora::{LoraConfig, LoraTargets};
use luthier_core::ops::cpu::CpuOps;
use luthier_core::train::{TrainConfig, Trainer};

use crate::golden::Golden;

/// First, second and last number of A in a few modules: PEFT 0.21, torch 2.15.
/// ```python
/// m = LlamaForCausalLM.from_pretrained("test/parity/golden/tied/model"); torch.manual_seed(7)
/// m = get_peft_model(m, LoraConfig(r=4, target_modules="all-linear"))
/// for k, p in m.named_parameters():
///     if "lora_A" in k: print(k, p.flatten()[[0, 1, -1]].tolist())
/// ```
const PEFT_SEED_7: [(&str, [f64; 3]); 4] = [
    ("model.layers.0.self_attn.q_proj", [0.01841755211353302, 0.0607738234102726, 0.07044441252946854]),
    ("model.layers.0.self_attn.k_proj", [0.10324118286371231, -0.10168463736772537, 0.11423421651124954]),
    ("model.layers.0.mlp.down_proj", [0.04741091653704643, 0.04707818478345871, -0.08542032539844513]),
    ("model.layers.1.mlp.down_proj", [0.09104606509208679, -0.0655769631266594, -0.012629724107682705]),
];

#[test]
fn a_new_adapter_is_pefts_bit_for_bit() {
    let golden = Golden::open("tied");
    let ops = Arc::new(CpuOps::<f32>::new(1));
    let lora = LoraConfig {
        r: 4,
        lora_alpha: 8.0,
        lora_dropout: 0.0,
        targets: LoraTargets::default(),
        use_rslora: false,
        seed: 7,
    };
    let config = TrainConfig { lora, ..golden.config() };
    let trainer = Trainer::new(ops.clone(), golden.model(&*ops), config, golden.train(), None, None).unwrap();
    let adapter = trainer.adapter().unwrap();
    assert_eq!(adapter.modules.len(), 14);
    for (path, [first, second, last]) in PEFT_SEED_7 {
        let a = &adapter.modules[path].a;
        let found = [a[0], a[1], a[a.len() - 1]].map(f64::from);
        assert_eq!(found, [first, second, last], "{path}");
    }
    assert!(adapter.modules.values().all(|module| module.b.iter().all(|b| *b == 0.0)));
}

#[test]
fn rank_alpha_and_targets_of_an_existing_adapter_win() {
    let golden = Golden::open("untied");
    let initial = golden.adapter("init_adapter");
    let ops = Arc::new(CpuOps::<f32>::new(1));
    let lora = LoraConfig {
        r: 64,
        lora_alpha: 1.0,
        lora_dropout: 0.0,
        targets: LoraTargets::default(),
        use_rslora: false,
        seed: 7,
    };
    let config = TrainConfig { lora, ..golden.config() };
    let base = golden.model(&*ops);
    let trainer = Trainer::new(ops, base, config, golden.train(), None, Some(initial.clone())).unwrap();
    let adapter = trainer.adapter().unwrap();
    assert_eq!(adapter.modules, initial.modules);
    assert_eq!((adapter.r, adapter.lora_alpha, adapter.use_rslora), (3, 6.0, true));
}
