/** Commands and options that have a place in the interface, but no code behind them yet. Refused by name, never ignored. */

/** Subcommands, by group. */
export const SUBCOMMANDS_NOT_BUILT: Readonly<Record<string, readonly string[]>> = {
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
  'resume-from-checkpoint': 'Use luthier jobs resume.',
  tf32: '',
  'torch-compile': '',
  'use-dora': '',
  'warmup-ratio': 'Use --warmup-steps with a value below 1.',
};
