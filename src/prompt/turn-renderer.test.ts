import { describe, expect, it } from 'vitest';
import { presetTokenizer } from '../../test/fixtures/templates.ts';
import { tinyTokenizer } from '../../test/fixtures/tokenizers.ts';
import { createRenderer } from './create-renderer.ts';
import { promptCompletionMessages } from './messages.ts';
import { preset } from './presets.ts';
import { IGNORED_LABEL, type Message, type RenderedExample } from './renderer.ts';
import { TEMPLATE_NAMES } from './template-names.ts';

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
  createRenderer(presetTokenizer(name), name).renderPrompt(list).text;

describe('the presets write exactly', () => {
  it.each([
    ['tutorial', '[Round 1]\n\n问:q1\n\n答:a1\n\n[Round 2]\n\n问:q2\n\n答:a2<|im_end|>'],
    ['chatglm2', '[Round 1]\n\n问：q1\n\n答：a1\n\n[Round 2]\n\n问：q2\n\n答：a2<|im_end|>'],
    ['chatglm', '[Round 0]\n问：q1\n答：a1\n[Round 1]\n问：q2\n答：a2<|im_end|>'],
    ['instruction', '<|im_start|>Human: q1\n\nAssistant: a1\n\nHuman: q2\n\nAssistant: a2<|im_end|>'],
    ['instruction-output', '<|im_start|>Instruction: q1\n\nOutput: a1\n\nInstruction: q2\n\nOutput: a2<|im_end|>'],
    ['concat', 'q1a1q2a2<|im_end|>'],
    ['concat-eos', 'q1a1<|im_end|>q2a2<|im_end|>'],
    ['baichuan', '<reserved_102>q1<reserved_103>a1<reserved_102>q2<reserved_103>a2<|im_end|>'],
    ['baichuan2', '<reserved_106>q1<reserved_107>a1<reserved_106>q2<reserved_107>a2<|im_end|>'],
    [
      'chatml',
      '<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\na1<|im_end|>\n<|im_start|>user\nq2<|im_end|>\n<|im_start|>assistant\na2<|im_end|>',
    ],
    [
      'qwen',
      '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\na1<|im_end|>\n<|im_start|>user\nq2<|im_end|>\n<|im_start|>assistant\na2<|im_end|>',
    ],
    // BOS and EOS of this tokenizer read <|im_start|> and <|im_end|>.
    ['llama2', '<|im_start|>[INST] q1 [/INST] a1 <|im_end|><|im_start|>[INST] q2 [/INST] a2 <|im_end|>'],
    [
      'llama3',
      '<|im_start|><|start_header_id|>user<|end_header_id|>\n\nq1<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\na1<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nq2<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\na2<|eot_id|>',
    ],
    ['mistral', '<|im_start|>[INST] q1[/INST] a1<|im_end|>[INST] q2[/INST] a2<|im_end|>'],
    [
      'alpaca',
      '<|im_start|>Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\nq1\n\n### Response:a1\n\n### Instruction:\nq2\n\n### Response:a2<|im_end|>',
    ],
  ])('%s', (name, expected) => {
    const presets = presetTokenizer(name);
    const example = createRenderer(presets, name).renderTraining(messages, { trainOn: 'last' });
    expect(textOf(example)).toBe(expected);
    expect(presets.decode(example.inputIds)).toBe(expected);
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
    expect(promptOf('baichuan2', list)).toBe('Be kind.<reserved_106>q1<reserved_107>');
    expect(promptOf('qwen', list)).toBe(
      '<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\n',
    );
    expect(promptOf('llama2', list)).toBe('<|im_start|>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nq1 [/INST]');
  });

  it('a system message inside the first round stands in no other', () => {
    const list: Message[] = [{ role: 'system', content: 'Be kind.' }, ...messages];
    const { segments } = createRenderer(tokenizer, 'llama2').renderTraining(list, { trainOn: 'last' });
    expect(segments.map(({ text }) => text).join('')).toBe(
      '<|im_start|>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nq1 [/INST] a1 <|im_end|><|im_start|>[INST] q2 [/INST] a2 <|im_end|>',
    );
  });

  it('messages without the whitespace around them where the template trims', () => {
    const list: Message[] = [{ role: 'user', content: '\u2003 q1\n' }];
    expect(promptOf('llama2', list)).toBe('<|im_start|>[INST] q1 [/INST]');
    expect(promptOf('tutorial', list)).toBe('[Round 1]\n\n问:\u2003 q1\n\n\n答:');
    // Python's strip leaves U+FEFF, and so do the published templates.
    expect(promptOf('llama2', [{ role: 'user', content: '\ufeffq1\x1c' }])).toBe('<|im_start|>[INST] \ufeffq1 [/INST]');
    const system: Message[] = [{ role: 'system', content: ' s ' }, ...list];
    expect(promptOf('llama2', system)).toBe('<|im_start|>[INST] <<SYS>>\n s \n<</SYS>>\n\n\u2003 q1 [/INST]');
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

it('templates are known by a hash of their definition', () => {
  const hashes = TEMPLATE_NAMES.map((name) => createRenderer(presetTokenizer(name), name).template.hash);
  expect(new Set(hashes).size).toBe(TEMPLATE_NAMES.length);
  expect(hashes.every((hash) => /^[0-9a-f]{64}$/.test(hash))).toBe(true);
  const tutorial = preset('tutorial');
  expect(tutorial && createRenderer(tokenizer, tutorial.definition).template.hash).toBe(
    createRenderer(tokenizer, 'tutorial').template.hash,
  );
});

describe('tokens', () => {
  const USER = 'user: "<|user|>{content}<|assistant|>"';

  it('that the tokenizer lacks are refused', () => {
    expect(() => createRenderer(tokenizer, 'llama3')).toThrow(
      /template llama3 does not suit this model: its tokens <\|start_header_id\|>, .* are no control tokens/,
    );
    expect(() => createRenderer(tokenizer, `id: mine\n${USER}\ntokens: ["<|user|>", "<|assistant|>"]`)).toThrow(
      /its tokens <\|user\|>, <\|assistant\|> are no control tokens/,
    );
  });

  it('that have other ids than the template says are refused', () => {
    const template = (id: number) =>
      `id: mine\nuser: "<|endoftext|>{content}"\ntokens: ["<|endoftext|>"]\ntokenIds: { "<|endoftext|>": ${id} }`;
    expect(() => createRenderer(tokenizer, template(195))).toThrow(
      /its token <\|endoftext\|> has id 0 in the tokenizer; expected 195/,
    );
    expect(createRenderer(tokenizer, template(0)).renderPrompt(messages.slice(0, 1)).inputIds[0]).toBe(0);
    const { inputIds } = createRenderer(presetTokenizer('baichuan2'), 'baichuan2').renderPrompt(messages.slice(0, 1));
    expect([inputIds[0], inputIds.at(-1)]).toEqual([195, 196]);
  });

  it('that the template does not name are refused', () => {
    expect(() => createRenderer(tokenizer, 'id: mine\nuser: "<|endoftext|>{content}\\n"')).toThrow(
      /<\|endoftext\|> in its texts is a control token of the tokenizer; name it in tokens/,
    );
  });

  it('of which end is exactly one', () => {
    const mine = (end: string) => createRenderer(tokenizer, `id: mine\nuser: "{content}"\nend: "${end}"`);
    expect(() => mine(' {eos}')).toThrow(/end is " <\|im_end\|>"; expected exactly one control token/);
    expect(() => mine('stop')).toThrow(/end is "stop"/);
    expect(mine('{eos}').stopTokenIds).toEqual([EOS]);
  });

  it('that the tokenizer does not name are refused', () => {
    const bare = tinyTokenizer({ bosTokenId: null });
    expect(() => createRenderer(bare, 'llama2')).toThrow(/it writes \{bos\}, but the tokenizer names no such token/);
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
    expect(createRenderer(tinyTokenizer({ eosTokenId: null }), 'chatml').stopTokenIds).toContain(EOS);
  });

  it('an unknown name, and a model without a chat template', () => {
    expect(() => createRenderer(tokenizer, 'vicuna')).toThrow(
      /"vicuna" is unknown; expected one of chat-template, chatml/,
    );
    const bare = tinyTokenizer({ chatTemplate: null });
    expect(() => createRenderer(bare, null)).toThrow(/no chat template of its own; name one of chatml, qwen/);
    expect(() => createRenderer(bare, null)).toThrow(expect.objectContaining({ code: 'NO_CHAT_TEMPLATE' }));
  });
});
