/** What templates are called. */

/** The model's own Jinja template. */
export const CHAT_TEMPLATE_ID = 'chat-template';

/** The files of `presets/`, in the order in which people are shown them. */
export const PRESET_NAMES: readonly string[] = [
  'chatml',
  'qwen',
  'llama2',
  'llama3',
  'mistral',
  'baichuan2',
  'baichuan',
  'tutorial',
  'chatglm2',
  'chatglm',
  'instruction',
  'instruction-output',
  'alpaca',
  'concat',
  'concat-eos',
];

/** Every name that `createRenderer` knows. */
export const TEMPLATE_NAMES: readonly string[] = [CHAT_TEMPLATE_ID, ...PRESET_NAMES];
