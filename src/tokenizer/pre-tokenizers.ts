/**
 * The pre-tokenizers that GGUF files name in `tokenizer.ggml.pre`: patterns as in llama.cpp's `llm_tokenizer_bpe`
 * (src/llama-vocab.cpp), in the form in which the original tokenizer.json files write them.
 */
import { TokenizerError } from './errors.ts';
import { GPT2_PATTERN } from './tokenizer-json.ts';

export interface PreTokenizerSpec {
  /** Applied one after the other; each cuts the pieces that the one before it left. */
  readonly patterns: readonly string[];
  /** A piece that is a whole token is taken without merging. */
  readonly ignoreMerges: boolean;
  /** Whether a text starts with BOS where the file does not say. */
  readonly addBos: boolean;
  /** The original tokenizer composes characters first (NFC). */
  readonly nfc: boolean;
}

const CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const words = (digits: string, letters = '\\p{L}', marks = ''): string =>
  `${CONTRACTION}|[^\\r\\n\\p{L}\\p{N}]?${letters}+|${digits}| ?[^\\s\\p{L}${marks}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`;
const CASED = '[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+';
const CASED_UPPER = '[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*';
const CASED_REST = ' ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+';

const spec = (patterns: readonly string[], options: Partial<PreTokenizerSpec> = {}): PreTokenizerSpec => ({
  patterns,
  ignoreMerges: false,
  addBos: false,
  nfc: false,
  ...options,
});

const LLAMA3 = spec([words('\\p{N}{1,3}')], { ignoreMerges: true, addBos: true });
const LLAMA3_WITHOUT_BOS = spec([words('\\p{N}{1,3}')]);
const QWEN2 = spec([words('\\p{N}')], { nfc: true });
const QWEN2_WITHOUT_NFC = spec([words('\\p{N}')]);
const GPT2 = spec([GPT2_PATTERN]);
const DIGITS_THEN_GPT2 = spec(['\\p{N}', GPT2_PATTERN]);
const DEFAULT = spec(['[\\p{P}\\$\\+<=>\\^~\\|]+', GPT2_PATTERN, '\\p{N}+', '[0-9][0-9][0-9]']);
const FALCON = spec(['[\\p{P}\\$\\+<=>\\^~\\|`]+', GPT2_PATTERN, '[0-9][0-9][0-9]']);
const DEEPSEEK3 = spec([
  '\\p{N}{1,3}',
  '[一-龥぀-ゟ゠-ヿ]+',
  '[!"#$%&\'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+',
]);
const TEKKEN = spec([`${CASED}|${CASED_UPPER}|\\p{N}|${CASED_REST}`], { ignoreMerges: true, addBos: true });
const GPT4O = spec([`${CASED}${CONTRACTION}?|${CASED_UPPER}${CONTRACTION}?|\\p{N}{1,3}|${CASED_REST}`]);

const SPECS: ReadonlyMap<string, PreTokenizerSpec> = new Map([
  ['default', DEFAULT],
  ...['llama-bpe', 'llama3', 'llama-v3', 'falcon3', 'falcon-h1', 'pixtral', 'midm-2.0', 'lfm2'].map(
    (name) => [name, LLAMA3] as const,
  ),
  ...['dbrx', 'smaug-bpe', 'chatglm-bpe'].map((name) => [name, LLAMA3_WITHOUT_BOS] as const),
  ['glm4', spec([words('\\p{N}{1,3}')], { ignoreMerges: true })],
  ...['qwen2', 'deepseek-r1-qwen', 'kormo', 'megrez'].map((name) => [name, QWEN2] as const),
  ['qwen35', spec([words('\\p{N}', '[\\p{L}\\p{M}]', '\\p{M}')], { nfc: true })],
  ...['stablelm2', 'hunyuan', 'grok-2', 'solar-open'].map((name) => [name, QWEN2_WITHOUT_NFC] as const),
  ...['gpt-2', 'phi-2', 'mpt', 'olmo', 'jais', 'gigachat', 'mellum', 'modern-bert', 'trillion', 'granite-docling'].map(
    (name) => [name, GPT2] as const,
  ),
  ...['smollm', 'starcoder', 'refact', 'command-r', 'codeshell', 'exaone', 'minerva-7b'].map(
    (name) => [name, DIGITS_THEN_GPT2] as const,
  ),
  ['falcon', FALCON],
  ...['deepseek-v3', 'hunyuan-dense', 'joyai-llm'].map((name) => [name, DEEPSEEK3] as const),
  ['tekken', TEKKEN],
  ...['gpt-4o', 'llama4', 'kanana2'].map((name) => [name, GPT4O] as const),
]);

/** Names that `tokenizer.ggml.pre` may have here. */
export const SUPPORTED_PRE_TOKENIZERS: readonly string[] = [...SPECS.keys()].sort();

/** The pre-tokenizer of a name; files without one are read as `default`, as llama.cpp does. */
export function preTokenizerSpec(name: string | null): PreTokenizerSpec {
  const found = SPECS.get(name ?? 'default');
  if (!found) {
    throw new TokenizerError(
      'TOKENIZER_UNSUPPORTED',
      `GGUF pre-tokenizer \`${name}\` is not supported; supported are ${SUPPORTED_PRE_TOKENIZERS.join(', ')}`,
    );
  }
  return found;
}
