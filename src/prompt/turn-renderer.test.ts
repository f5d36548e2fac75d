import { describe, expect, it } from 'vitest';
import { tinyTokenizer } from '../../test/fixtures/tokenizers.ts';
import { createRenderer, TEMPLATE_NAMES } from './create-renderer.ts';
import { promptCompletionMessages } from './messages.ts';
import { PRESETS, roundsDefinition } from './presets.ts';
import { IGNORED_LABEL, type Message, type RenderedExample } from './renderer.ts';

const tokenizer = tinyTokenizer();
const EOS = 2;
const messages: readonly Message[] = [
  { role: 'user', content: 'q1' },
  { role: 'assistant', content: 'a1' },
  { role: 'user', content: 'q2' },
  { role: 'assistant', content: 'a2' },
];
const textOf = (example: RenderedExample): string => example.segments.map((segment) => segment.text).join('');
const promptOf = (name: string, list: readonly Message[]): string =>
  createRenderer(tokenizer, name).renderPrompt(list).text;

describe('the presets write exactly', () => {
  it.each([
    ['tutorial', '[Round 1]\n\n问:q1\n\n答:a1\n\n[Round 2]\n\n问:q2\n\n答:a2<|im_end|>'],
    ['chatglm2', '[Round 1]\n\n问：q1\n\n答：a1\n\n[Round 2]\n\n问：q2\n\n答：a2<|im_end|>'],
    ['chatglm', '[Round 0]\n问：q1\n答：a1\n[Round 1]\n问：q2\n答：a2<|im_end|>'],
    ['instruction', '<|im_start|>Human: q1\n\nAssistant: a1\n\nHuman: q2\n\nAssistant: a2<|im_end|>'],
    ['instruction-output', '<|im_start|>Instruction: q1\n\nOutput: a1\n\nInstruction: q2\n\nOutput: a2<|im_end|>'],
    ['concat', 'q1a1q2a2<|im_end|>'],
    ['concat-eos', 'q1a1<|im_end|>q2a2<|im_end|>'],
  ])('%s', (name, expected) => {
    const example = createRenderer(tokenizer, name).renderTraining(messages, { trainOn: 'last' });
    expect(textOf(example)).toBe(expected);
    expect(tokenizer.decode(example.inputIds)).toBe(expected);
  });

  it.each([
    ['tutorial', '[Round 1]\n\n问:q1\n\n答:a1\n\n[Round 2]\n\n问:q2\n\n答:'],
    ['chatglm', '[Round 0]\n问：q1\n答：a1\n[Round 1]\n问：q2\n答：'],
    ['instruction', '<|im_start|>Human: q1\n\nAssistant: a1\n\nHuman: q2\n\nAssistant:'],
    ['concat-eos', 'q1a1<|im_end|>q2'],
  ])('%s as a prompt', (name, expected) => {
    expect(promptOf(name, messages.slice(0, 3))).toBe(expected);
  });

  it('a system message in front', () => {
    const list: Message[] = [{ role: 'system', content: 'Be kind.' }, ...messages.slice(0, 1)];
    expect(promptOf('tutorial', list)).toBe('Be kind.\n\n[Round 1]\n\n问:q1\n\n答:');
  });
});

it('a single instruction has the ids of the whole text, BOS in front and EOS behind', () => {
  const renderer = createRenderer(tokenizer, 'instruction');
  const { inputIds, labels } = renderer.renderTraining(messages.slice(0, 2), { trainOn: 'assistant' });
  expect([...inputIds]).toEqual([1, ...tokenizer.encode('Human: q1\n\nAssistant: a1'), EOS]);
  expect(renderer.answerPrefix).toBe(' ');
  expect(tokenizer.decode([...labels].filter((label) => label !== IGNORED_LABEL))).toBe(' a1<|im_end|>');
});

it('EOS is the label behind an answer whose history keeps no end token, while the input stays', () => {
  const { inputIds, labels, segments } = createRenderer(tokenizer, 'tutorial').renderTraining(messages, {
    trainOn: 'assistant',
  });
  const first = createRenderer(tokenizer, 'tutorial').renderPrompt(messages.slice(0, 1)).inputIds.length;
  const end = first + tokenizer.encode('a1').length;
  expect(labels[end]).toBe(EOS);
  expect(inputIds[end]).toBe(tokenizer.encode('\n\n[Round 2]')[0]);
  expect(labels[end + 1]).toBe(IGNORED_LABEL);
  expect(segments.find((segment) => segment.labels)?.kind).toBe('prompt');
  expect(inputIds.at(-1)).toBe(EOS);
  expect(labels.at(-1)).toBe(EOS);
});

it('an answer that is not learned leaves no EOS label', () => {
  const list = messages.map((message, index): Message => (index === 1 ? { ...message, weight: 0 } : message));
  const { labels } = createRenderer(tokenizer, 'tutorial').renderTraining(list, { trainOn: 'assistant' });
  expect([...labels].filter((label) => label === EOS)).toHaveLength(1);
});

it('a ChatGLM question stands alone until it is answered', () => {
  const renderer = createRenderer(tokenizer, 'chatglm');
  expect(promptOf('chatglm', messages.slice(0, 1))).toBe('q1');
  const single = renderer.renderTraining(messages.slice(0, 2), { trainOn: 'assistant' });
  expect(textOf(single)).toBe('q1a1<|im_end|>');
  const train = () => renderer.renderTraining(messages, { trainOn: 'assistant' });
  expect(train).toThrow(expect.objectContaining({ code: 'PREFIX_MISMATCH', messageIndex: 1 }));
  const weighted = messages.map((message, index): Message => (index === 1 ? { ...message, weight: 0 } : message));
  expect(renderer.renderTraining(weighted, { trainOn: 'assistant' }).labelTokens).toBe(3);
});

it('prompt and completion are raw text, of which the completion and EOS are learned', () => {
  const list = promptCompletionMessages('Q: hello\nA:', ' hello');
  const example = createRenderer(tokenizer, 'concat-eos').renderTraining(list, { trainOn: 'assistant' });
  expect(textOf(example)).toBe('Q: hello\nA: hello<|im_end|>');
  expect(tokenizer.decode([...example.labels].filter((label) => label !== IGNORED_LABEL))).toBe(' hello<|im_end|>');
});

it('BOS follows the tokenizer where the template leaves it to it', () => {
  const withBos = createRenderer(tinyTokenizer({ addBosToken: true }), 'tutorial').renderPrompt(messages.slice(0, 1));
  expect(withBos.inputIds[0]).toBe(1);
  expect(createRenderer(tokenizer, 'tutorial').renderPrompt(messages.slice(0, 1)).inputIds[0]).not.toBe(1);
});

it('rounds can be written otherwise', () => {
  const definition = roundsDefinition({ indexBase: 5, colon: 'full', separator: '\n', bareFirstTurn: false });
  const renderer = createRenderer(tokenizer, definition);
  expect(renderer.renderPrompt(messages.slice(0, 1)).text).toBe('[Round 5]\n问：q1\n答：');
  expect(renderer.stopStrings).toEqual(['\n[Round ']);
});

it('templates are known by a hash of their definition', () => {
  const hashes = TEMPLATE_NAMES.map((name) => createRenderer(tokenizer, name).template.hash);
  expect(new Set(hashes).size).toBe(TEMPLATE_NAMES.length);
  expect(hashes.every((hash) => /^[0-9a-f]{64}$/.test(hash))).toBe(true);
  const tutorial = PRESETS.get('tutorial');
  expect(tutorial && createRenderer(tokenizer, tutorial.definition).template.hash).toBe(
    createRenderer(tokenizer, 'tutorial').template.hash,
  );
  expect(createRenderer(tokenizer, 'tutorial').template).toEqual({
    id: 'tutorial',
    version: '1',
    // Stored with adapters: a change of this value breaks every adapter trained with the preset.
    hash: 'a8ccbdf48b6998808949083161b217064997312c2e7600b49b306e0f98fe38fa',
  });
});

describe('refuses', () => {
  const render = (list: readonly Message[]) => () => createRenderer(tokenizer, 'tutorial').renderPrompt(list);
  const [user, assistant] = messages as readonly [Message, Message];

  it.each([
    ['no messages', [], /expected at least one message/],
    ['two questions in a row', [user, user], /messages\[1\].role is user; .* here assistant/],
    ['an answer first', [assistant], /messages\[0\].role is assistant; .* here user/],
    ['a system message later', [user, assistant, { role: 'system', content: 's' }], /messages\[2\].role is system/],
    ['a prompt that ends with an answer', [user, assistant], /must end with a user message/],
    ['a weight on a question', [{ ...user, weight: 1 }], /messages\[0\].weight: only assistant messages/],
  ] as const)('%s', (_, list, message) => {
    expect(render(list)).toThrow(message);
  });

  it('training without a last answer', () => {
    expect(() => createRenderer(tokenizer, 'tutorial').renderTraining([user], { trainOn: 'all' })).toThrow(
      /must end with an assistant/,
    );
  });

  it('a tokenizer without EOS', () => {
    expect(() => createRenderer(tinyTokenizer({ eosTokenId: null }), 'concat')).toThrow(/names no EOS token/);
  });

  it('an unknown name, and a model without a chat template', () => {
    expect(() => createRenderer(tokenizer, 'alpaca')).toThrow(
      /"alpaca" is unknown; expected one of chat-template, tutorial/,
    );
    const bare = tinyTokenizer({ chatTemplate: null });
    expect(() => createRenderer(bare, null)).toThrow(/no chat template of its own; name one of tutorial, chatglm2/);
    expect(() => createRenderer(bare, null)).toThrow(expect.objectContaining({ code: 'NO_CHAT_TEMPLATE' }));
  });
});
