/** Presets against the published code of their models, chat templates against transformers: `test/parity/make_prompt_goldens.py`. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { sentencePieceFile } from '../../test/fixtures/sentencepiece.ts';
import { presetTokenizer } from '../../test/fixtures/templates.ts';
import { packagedFolder } from '../../test/fixtures/tokenizers.ts';
import { loadTokenizer } from '../tokenizer/load.ts';
import { readSentencePieceModel } from '../tokenizer/sentencepiece/read-model.ts';
import { sentencePieceDefinition } from '../tokenizer/sentencepiece-folder.ts';
import { SentencePieceTokenizer } from '../tokenizer/sentencepiece-tokenizer.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import { createRenderer } from './create-renderer.ts';
import { IGNORED_LABEL, type Message, type Role } from './renderer.ts';

type Rounds = readonly (readonly [question: string, answer: string])[];
interface Published {
  readonly rounds: Rounds;
  readonly system?: string | null;
  readonly ids: readonly number[];
  readonly labels: readonly number[];
  readonly text: string;
}
interface Golden {
  readonly baichuan2: readonly Published[];
  readonly llama2: readonly Published[];
  readonly llama3: readonly Published[];
  readonly qwen: readonly Published[];
  readonly alpaca: readonly {
    readonly instruction: string;
    readonly input: string;
    readonly output: string;
    readonly ids: readonly number[];
    readonly labels: readonly number[];
  }[];
  readonly chatglm: readonly Published[];
  readonly chatglm2: readonly Published[];
  readonly mistral: readonly Published[];
  readonly chatTemplates: readonly {
    readonly name: string;
    readonly source: string | null;
    readonly cases: readonly {
      readonly chat: readonly (readonly [Role, string])[];
      readonly ids: readonly number[];
      readonly prompt: readonly number[];
      readonly mask?: readonly number[];
    }[];
  }[];
}

const golden = JSON.parse(
  readFileSync(new URL('../../test/parity/golden/prompts.json', import.meta.url), 'utf8'),
) as Golden;

const messagesOf = ({ rounds, system }: Pick<Published, 'rounds' | 'system'>): Message[] => [
  ...(system ? [{ role: 'system' as const, content: system }] : []),
  ...rounds.flatMap(([question, answer]): Message[] => [
    { role: 'user', content: question },
    { role: 'assistant', content: answer },
  ]),
];

/** Llama 2's sentencepiece model; ids of bytes that no text has (0xC0 and 0xC1) get these names, as control tokens. */
async function llama2With(names: Readonly<Record<number, string>>): Promise<Tokenizer> {
  const model = readSentencePieceModel(sentencePieceFile('llama2'), 'llama2');
  const pieces = model.pieces.map((piece, id) => names[id] ?? piece);
  const types = model.types.map((type, id) => (id in names ? 3 : type));
  const settings = { config: {}, generation: null, chatTemplate: null };
  const definition = await sentencePieceDefinition('no folder', { ...model, pieces, types }, settings);
  return new SentencePieceTokenizer({ ...definition, prefixAfterControl: true, prefixTokenIds: [] });
}

const llama3 = await loadTokenizer({ kind: 'huggingface', folder: packagedFolder('llama3') });
const qwen3 = await loadTokenizer({ kind: 'huggingface', folder: packagedFolder('qwen3') });

const BAICHUAN = { 195: '<reserved_102>', 196: '<reserved_103>', 259: '<reserved_106>', 260: '<reserved_107>' };
const BAICHUAN2 = { 195: '<reserved_106>', 196: '<reserved_107>' };

describe.each([
  ['baichuan', await llama2With(BAICHUAN)],
  ['baichuan2', await llama2With(BAICHUAN2)],
] as const)('%s', (name, tokenizer) => {
  const renderer = createRenderer(tokenizer, name);

  it.each(golden.baichuan2)('has the ids and labels of fine-tune.py: $rounds', ({ rounds, ids, labels }) => {
    const example = renderer.renderTraining(messagesOf({ rounds }), { trainOn: 'assistant' });
    expect([...example.inputIds]).toEqual(ids);
    // Position 0 has a label there, which the shift drops.
    expect([...example.labels].slice(1)).toEqual(labels.slice(1));
    expect(example.labels[0]).toBe(IGNORED_LABEL);
  });
});

it('baichuan2 is refused by the tokenizer of Baichuan-13B, which has its tokens at other ids', async () => {
  const tokenizer = await llama2With(BAICHUAN);
  expect(() => createRenderer(tokenizer, 'baichuan2')).toThrow(
    /<reserved_106> has id 259 in the tokenizer; expected 195/,
  );
});

describe('llama2', async () => {
  const renderer = createRenderer(await llama2With({}), 'llama2');

  it.each(golden.llama2)('has the ids of chat_completion: $system $rounds', (published) => {
    const prompt = renderer.renderPrompt(messagesOf(published).slice(0, -1));
    expect([...prompt.inputIds]).toEqual(published.ids);
  });
});

describe('llama3', () => {
  const renderer = createRenderer(llama3, 'llama3');

  it.each(golden.llama3)('has the ids of ChatFormat: $system $rounds', (published) => {
    const prompt = renderer.renderPrompt(messagesOf(published).slice(0, -1));
    expect([...prompt.inputIds]).toEqual(published.ids);
  });
});

describe('qwen', () => {
  const renderer = createRenderer(qwen3, 'qwen');
  const newline = qwen3.encode('\n')[0];

  it.each(golden.qwen)(
    'has the ids of finetune.py, which learns turn marks, too: $rounds',
    ({ rounds, ids, labels }) => {
      const { inputIds, labels: ours } = renderer.renderTraining(messagesOf({ rounds }), { trainOn: 'assistant' });
      expect([...inputIds, newline]).toEqual(ids);
      ours.forEach((label, position) => {
        if (label !== IGNORED_LABEL) expect(label).toBe(labels[position]);
      });
      expect(ours.at(-1)).toBe(qwen3.pieceToId('<|im_end|>'));
    },
  );
});

describe('alpaca', async () => {
  const renderer = createRenderer(await llama2With({}), 'alpaca');
  const WITH_INPUT =
    'Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.';

  it.each(golden.alpaca)(
    'has the ids and labels of train.py: $instruction',
    ({ instruction, input, output, ids, labels }) => {
      const messages: Message[] = [
        ...(input === '' ? [] : [{ role: 'system' as const, content: WITH_INPUT }]),
        { role: 'user', content: input === '' ? instruction : `${instruction}\n\n### Input:\n${input}` },
        { role: 'assistant', content: output },
      ];
      const example = renderer.renderTraining(messages, { trainOn: 'assistant' });
      expect([...example.inputIds]).toEqual(ids);
      expect([...example.labels]).toEqual(labels);
    },
  );
});

describe.each([
  ['chatglm', golden.chatglm],
  ['chatglm2', golden.chatglm2],
] as const)('%s', (name, cases) => {
  const renderer = createRenderer(presetTokenizer(name), name);

  it.each(cases)('has the text of the published code: $rounds', ({ rounds, text }) => {
    expect(renderer.renderPrompt(messagesOf({ rounds }).slice(0, -1)).text).toBe(text);
  });
});

describe('mistral, where the tokenizer puts its own space behind control tokens', async () => {
  const tokenizer = await llama2With({ 31993: '[INST]', 31994: '[/INST]' });
  const renderer = createRenderer(tokenizer, 'mistral');

  it.each(golden.mistral)("has the ids of mistral-common's third tokenizer: $rounds", ({ rounds, ids }) => {
    const messages = messagesOf({ rounds });
    expect([...renderer.renderPrompt(messages.slice(0, -1)).inputIds]).toEqual(ids);
    const { labels } = renderer.renderTraining(messages, { trainOn: 'last' });
    const answer = rounds.at(-1)?.[1] ?? '';
    const learned = [...labels].filter((label) => label !== IGNORED_LABEL);
    expect(learned).toEqual([...tokenizer.encode(answer), tokenizer.eosTokenId]);
  });
});

describe('mistral', () => {
  const tokenizer = presetTokenizer('mistral');
  const renderer = createRenderer(tokenizer, 'mistral');

  it.each(golden.mistral)("has the text of mistral-common's third tokenizer: $rounds", ({ rounds, text }) => {
    const ours = renderer
      .renderPrompt(messagesOf({ rounds }).slice(0, -1))
      .text.replace(tokenizer.specialTokens.bos_token ?? '', '<s>')
      .replaceAll(`${tokenizer.specialTokens.eos_token}[INST]`, '</s>[INST]');
    // Its pieces are shown with sentencepiece's sign for a space, and bytes of characters that its vocabulary lacks as <0x…>.
    const theirs = text
      .replace(/(?:<0x[0-9A-F]{2}>)+/g, (bytes) => Buffer.from(bytes.replaceAll(/<0x|>/g, ''), 'hex').toString('utf8'))
      .replaceAll('▁', ' ');
    expect(ours).toBe(theirs);
  });
});

describe.each(golden.chatTemplates)('the chat template $name', ({ source, cases }) => {
  const renderer = createRenderer(qwen3, source === null ? null : { kind: 'chat-template', source });

  it.each(cases)('gives the ids and the mask of apply_chat_template: $chat', ({ chat, ids, prompt, mask }) => {
    const messages = chat.map(([role, content]): Message => ({ role, content }));
    const { inputIds, labels } = renderer.renderTraining(messages, { trainOn: mask ? 'assistant' : 'last' });
    expect([...inputIds]).toEqual(ids);
    expect([...renderer.renderPrompt(messages.slice(0, -1)).inputIds]).toEqual(prompt);
    // A block may go on behind the token that closes the answer; what stands there is not learned here.
    const end = qwen3.pieceToId('<|im_end|>');
    const expected = mask?.map((bit, position) => (ids[position - 1] === end ? 0 : bit));
    if (expected) expect([...labels].map((label) => (label === IGNORED_LABEL ? 0 : 1))).toEqual(expected);
  });
});
