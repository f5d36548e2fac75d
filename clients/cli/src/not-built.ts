/** Commands and options that have a place in the interface, but no code behind them yet. Refused by name, never ignored. */

/** Subcommands, by group. */
export const SUBCOMMANDS_NOT_BUILT: Readonly<Record<string, readonly string[]>> = {
  jobs: ['pause', 'resume'],
  adapters: ['load', 'unload'],
};

/** Options of `train` that transformers, PEFT or their users know, with what to use instead. */
export const TRAIN_OPTIONS_NOT_BUILT: Readonly<Record<string, string>> = {
  adam8bit: 'Use --optim adamw_8bit.',
  bf16: '',
  bias: '',
  'dataloader-drop-last': '',
  'eval-delay': '',
  fp16: '',
  'init-lora-weights': '',
  'modules-to-save': '',
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
