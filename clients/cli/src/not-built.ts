/** Commands and options that have a place in the interface, but no code behind them yet. Refused by name, never ignored. */

/** Subcommands, by group. */
export const SUBCOMMANDS_NOT_BUILT: Readonly<Record<string, readonly string[]>> = {
  jobs: ['pause', 'resume', 'delete'],
  adapters: ['load', 'unload'],
};

/** Options of `train` that transformers, PEFT or their users know, with what to use instead. */
export const TRAIN_OPTIONS_NOT_BUILT: Readonly<Record<string, string>> = {
  adam8bit: '',
  bf16: '',
  bias: '',
  'dataloader-drop-last': '',
  'early-stopping-patience': '',
  'eval-delay': '',
  'eval-strategy':
    'Evaluation runs at each epoch, or every --eval-steps, where there is --eval-data or --validation-split.',
  fp16: '',
  'init-lora-weights': '',
  'label-smoothing-factor': '',
  'load-best-model-at-end': '',
  'loraplus-lr-ratio': '',
  'loss-normalization': '',
  'lr-scheduler-kwargs': '',
  'metric-for-best-model': '',
  'modules-to-save': '',
  'neftune-noise-alpha': '',
  optim: 'AdamW is used.',
  'report-to': 'Use --json for metrics as a stream.',
  'resume-from-checkpoint': '',
  'save-steps': '',
  'save-strategy': '',
  'save-total-limit': '',
  tf32: '',
  'torch-compile': '',
  'use-dora': '',
  'warmup-ratio': 'Use --warmup-steps with a value below 1.',
};
