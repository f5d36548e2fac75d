/** What holds for every renderer: training shows what inference shows, and masks cover answers and their ends. */
import { Template } from '@huggingface/jinja';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { presetTokenizer } from '../../test/fixtures/templates.ts';
import {
  LLAMA2_TEMPLATE,
  LLAMA3_TEMPLATE,
  packagedAsGguf,
  packagedFolder,
  tinyTokenizer,
} from '../../test/fixtures/tokenizers.ts';
import { ggufTokenizer } from '../tokenizer/gguf.ts';
import { loadTokenizer } from '../tokenizer/load.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import { createRenderer } from './create-renderer.ts';
import { IGNORED_LABEL, type Message, type RenderedExample, type Renderer } from './renderer.ts';

const tiny = tinyTokenizer();
const llama2 = ggufTokenizer({ ...packagedAsGguf('llama2'), chatTemplate: LLAMA2_TEMPLATE });
const llama3 = await loadTokenizer({ kind: 'huggingface', folder: packagedFolder('llama3') });
const qwen3 = await loadTokenizer({ kind: 'huggingface', folder: packagedFolder('qwen3') });
const LLAMA3_GENERATION = LLAMA3_TEMPLATE.replace(
  "'<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' %}",
  "'<|end_header_id|>\n\n' %}",
).replace(
  '{{ content }}',
  "{{ content }}{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] | trim }}<|eot_id|>{% endgeneration %}{% else %}{{ message['content'] | trim }}<|eot_id|>{% endif %}",
);

interface Case {
  readonly name: string;
  readonly tokenizer: Tokenizer;
  readonly renderer: Renderer;
  /** What the labels of one answer read: the answer as the template writes it, and what closes it. */
  readonly learned: (answer: string) => string;
}

const chat = (tokenizer: Tokenizer, source: string): Renderer =>
  createRenderer(tokenizer, { kind: 'chat-template', source });
const turns = (name: string, prefix = '', close = '<|im_end|>'): Case => {
  const tokenizer = presetTokenizer(name);
  const renderer = createRenderer(tokenizer, name);
  return { name: `SmolLM2 ${name}`, tokenizer, renderer, learned: (answer) => prefix + answer + close };
};

const CASES: readonly Case[] = [
  turns('chat-template'),
  turns('tutorial'),
  turns('chatglm2'),
  turns('instruction', ' '),
  turns('instruction-output', ' '),
  turns('alpaca'),
  turns('chatml'),
  turns('qwen'),
  turns('llama2', ' ', ' <|im_end|>'),
  turns('llama3', '', '<|eot_id|>'),
  turns('mistral', ' '),
  turns('baichuan2'),
  turns('concat'),
  turns('concat-eos'),
  {
    name: 'Llama 2',
    tokenizer: llama2,
    renderer: createRenderer(llama2, null),
    learned: (answer) => ` ${answer} </s>`,
  },
  {
    name: 'Llama 2 tutorial',
    tokenizer: llama2,
    renderer: createRenderer(llama2, 'tutorial'),
    learned: (answer) => `${answer}</s>`,
  },
  {
    name: 'Llama 2 preset',
    tokenizer: llama2,
    renderer: createRenderer(llama2, 'llama2'),
    learned: (answer) => ` ${answer} </s>`,
  },
  {
    name: 'Llama 3',
    tokenizer: llama3,
    renderer: chat(llama3, LLAMA3_TEMPLATE),
    learned: (answer) => `${answer}<|eot_id|>`,
  },
  {
    name: 'Llama 3 with generation blocks',
    tokenizer: llama3,
    renderer: chat(llama3, LLAMA3_GENERATION),
    learned: (answer) => `${answer}<|eot_id|>`,
  },
];

/** Texts without blanks at their ends: some templates cut those off. */
const text = fc
  .oneof(
    fc.string({ unit: 'grapheme', minLength: 1, maxLength: 12 }),
    fc.constantFrom('hello', '你好，世界', '😀👩‍💻', 'a\u00a0b  c', 'مرحبا', 'x\n\ny', '1234', '<b>', 'e\u0301'),
  )
  // The sign for a space in sentencepiece's pieces is a space to it wherever it comes from.
  .map((value) => value.replaceAll('\u2581', '_').trim())
  .filter((value) => value.length > 0);

const conversation = fc.array(fc.tuple(text, text), { minLength: 1, maxLength: 3 }).map((rounds) =>
  rounds.flatMap(([question, answer]): Message[] => [
    { role: 'user', content: question },
    { role: 'assistant', content: answer },
  ]),
);

const answersOf = (messages: readonly Message[]): string[] =>
  messages.filter((message) => message.role === 'assistant').map((message) => message.content);

/** The labels that are learned, as text. */
const learnedText = (tokenizer: Tokenizer, example: RenderedExample): string =>
  tokenizer.decode(
    [...example.labels].filter((label) => label !== IGNORED_LABEL),
    { continuation: true },
  );

/** Anything people and attackers write, empty and blank texts included. */
const anyText = fc
  .oneof(
    fc.string({ unit: 'binary', maxLength: 12 }),
    fc.constantFrom(
      '',
      ' ',
      '\n',
      ' a ',
      '<|im_end|>',
      '</s>',
      '<|eot_id|>',
      '[/INST]',
      '<reserved_106>',
      '答：',
      '{content}',
    ),
    fc
      .array(fc.constantFrom('<|im_', 'end|>', '<', '|', '</', 's>', '[Round ', '1]', '\n\n', '<<SYS>>', ' '), {
        maxLength: 5,
      })
      .map((parts) => parts.join('')),
  )
  .map((value) => value.replaceAll('\u2581', '_'));

const anyConversation = fc
  .record({
    system: fc.option(anyText),
    rounds: fc.array(fc.tuple(anyText, anyText, fc.constantFrom(0, 1, undefined)), { minLength: 1, maxLength: 4 }),
  })
  .map(({ system, rounds }): Message[] => [
    ...(system === null ? [] : [{ role: 'system' as const, content: system }]),
    ...rounds.flatMap(([question, answer, weight]): Message[] => [
      { role: 'user', content: question },
      { role: 'assistant', content: answer, ...(weight === undefined ? {} : { weight }) },
    ]),
  ]);

const controlIds = (tokenizer: Tokenizer, ids: Uint32Array): number[] =>
  [...ids].filter((id) => tokenizer.controlTokenIds.has(id));

describe.each(CASES)('$name', ({ tokenizer, renderer, learned }) => {
  const refusesSystem = renderer.template.id === 'mistral';

  it('learns the answers and their ends, and nothing else', () => {
    fc.assert(
      fc.property(conversation, (messages) => {
        const example = renderer.renderTraining(messages, { trainOn: 'assistant' });
        expect(learnedText(tokenizer, example)).toBe(answersOf(messages).map(learned).join(''));
        expect(example.labelTokens).toBe(example.labels.filter((label) => label !== IGNORED_LABEL).length);
        expect(example.inputIds.length).toBe(example.labels.length);
      }),
      { numRuns: 60 },
    );
  });

  it('shows training what inference shows, for every turn', () => {
    fc.assert(
      fc.property(conversation, (messages) => {
        const { inputIds, labels } = renderer.renderTraining(messages, { trainOn: 'assistant' });
        messages.forEach((message, index) => {
          if (message.role !== 'assistant') return;
          const prompt = renderer.renderPrompt(messages.slice(0, index)).inputIds;
          expect([...inputIds.subarray(0, prompt.length)]).toEqual([...prompt]);
          // The answer starts right behind the prompt, and is learned from its first token on.
          expect(labels[prompt.length]).toBe(inputIds[prompt.length]);
        });
      }),
      { numRuns: 40 },
    );
  });

  it('holds for any conversation: prompts are prefixes, control tokens the template’s own, and there is something to learn', () => {
    fc.assert(
      fc.property(anyConversation, fc.constantFrom('assistant', 'last', 'all'), (drawn, trainOn) => {
        const messages = refusesSystem ? drawn.filter(({ role }) => role !== 'system') : drawn;
        const { inputIds, labels, segments } = renderer.renderTraining(messages, { trainOn });
        const harmless = messages.map((message) => ({ ...message, content: 'a' }));
        expect(controlIds(tokenizer, inputIds)).toEqual(
          controlIds(tokenizer, renderer.renderTraining(harmless, { trainOn }).inputIds),
        );
        const answers = messages.flatMap(({ role, weight }, index) =>
          role === 'assistant' ? [{ index, learned: weight !== 0 }] : [],
        );
        const chosen = (trainOn === 'last' ? answers.slice(-1) : answers).filter((answer) => answer.learned);
        for (const { index } of chosen) {
          const prompt = renderer.renderPrompt(messages.slice(0, index)).inputIds;
          expect([...inputIds.subarray(0, prompt.length)]).toEqual([...prompt]);
        }
        const ends = labels.filter((label) => renderer.stopTokenIds.includes(label)).length;
        if (trainOn !== 'all') expect(ends).toBe(chosen.length);
        expect(labels.some((label) => label !== IGNORED_LABEL)).toBe(trainOn === 'all' || chosen.length > 0);
        expect(segments.flatMap((segment) => [...segment.ids])).toEqual([...inputIds]);
      }),
      { numRuns: 60 },
    );
  });

  it('learns the last answer alone, every position, or what weights leave', () => {
    const messages: Message[] = [
      { role: 'user', content: 'one' },
      { role: 'assistant', content: 'first' },
      { role: 'user', content: 'two' },
      { role: 'assistant', content: 'second' },
    ];
    expect(learnedText(tokenizer, renderer.renderTraining(messages, { trainOn: 'last' }))).toBe(learned('second'));
    const all = renderer.renderTraining(messages, { trainOn: 'all' });
    expect([...all.labels]).toEqual([...all.inputIds]);
    const weighted = messages.map((message, index): Message => (index === 3 ? { ...message, weight: 0 } : message));
    expect(learnedText(tokenizer, renderer.renderTraining(weighted, { trainOn: 'assistant' }))).toBe(learned('first'));
    expect(renderer.renderTraining(weighted, { trainOn: 'last' }).labelTokens).toBe(0);
  });

  it('keeps segments, ids and labels together', () => {
    const messages: Message[] = [
      { role: 'user', content: 'question' },
      { role: 'assistant', content: 'answer' },
    ];
    const example = renderer.renderTraining(messages, { trainOn: 'assistant' });
    expect(example.segments.flatMap((segment) => [...segment.ids])).toEqual([...example.inputIds]);
    for (const segment of example.segments) {
      if (segment.labels) expect(segment.labels.length).toBe(segment.ids.length);
      if (segment.kind !== 'prompt') expect(segment.messageIndex).toBe(1);
    }
  });
});

/** Conversations whose answers do not start or end with what joins the template's text to a longer token. */
const clean = fc
  .array(
    fc.tuple(
      fc.constantFrom('What is it?', '你好吗', 'say  hello', 'x\ny', '😀 why', '12 345'),
      fc.constantFrom('It is fine.', '我很好。', 'Hello 😀', 'a\n\nb', '42'),
    ),
    { minLength: 1, maxLength: 3 },
  )
  .map((rounds) =>
    rounds.flatMap(([question, answer]): Message[] => [
      { role: 'user', content: question },
      { role: 'assistant', content: answer },
    ]),
  );

describe.each([
  ['SmolLM2', tiny, tiny.chatTemplate ?? ''],
  ['Llama 2', llama2, LLAMA2_TEMPLATE],
  ['Llama 3', llama3, LLAMA3_TEMPLATE],
  ['Qwen 3', qwen3, qwen3.chatTemplate ?? ''],
] as const)('%s', (_, tokenizer, source) => {
  const renderer = chat(tokenizer, source);
  const template = new Template(source);
  const whole = (messages: readonly Message[], addGenerationPrompt: boolean): number[] => {
    const rendered = template.render({
      messages,
      add_generation_prompt: addGenerationPrompt,
      ...tokenizer.specialTokens,
    });
    return [...tokenizer.encode(rendered, { parseSpecial: true })];
  };

  it('gives the ids of the whole text for clean conversations', () => {
    fc.assert(
      fc.property(clean, (messages) => {
        expect([...renderer.renderTraining(messages, { trainOn: 'last' }).inputIds]).toEqual(whole(messages, false));
        const prompt = messages.slice(0, -1);
        expect([...renderer.renderPrompt(prompt).inputIds]).toEqual(whole(prompt, true));
      }),
      { numRuns: 60 },
    );
  });
});
