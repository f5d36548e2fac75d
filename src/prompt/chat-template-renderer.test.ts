import { describe, expect, it } from 'vitest';
import { packagedFolder, tinyTokenizer } from '../../test/fixtures/tokenizers.ts';
import { loadTokenizer } from '../tokenizer/load.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import { createRenderer } from './create-renderer.ts';
import { IGNORED_LABEL, type Message, type Renderer, type TrainOn } from './renderer.ts';

const tiny = tinyTokenizer();
const jinja = (source: string, tokenizer: Tokenizer = tiny): Renderer =>
  createRenderer(tokenizer, { kind: 'chat-template', source });
const messages: readonly Message[] = [
  { role: 'user', content: 'q1' },
  { role: 'assistant', content: 'a1' },
  { role: 'user', content: 'q2' },
  { role: 'assistant', content: 'a2' },
];

function learned(
  renderer: Renderer,
  list: readonly Message[] = messages,
  trainOn: TrainOn = 'assistant',
  tokenizer = tiny,
): string {
  const { labels } = renderer.renderTraining(list, { trainOn });
  return tokenizer.decode([...labels].filter((label) => label !== IGNORED_LABEL));
}

describe("SmolLM2's template", () => {
  const renderer = createRenderer(tiny, null);

  it('keeps its default system prompt, and writes another where there is one', () => {
    const { text } = renderer.renderPrompt(messages.slice(0, 1));
    expect(text).toBe(
      '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\n',
    );
    const system = renderer.renderPrompt([{ role: 'system', content: 's' }, ...messages.slice(0, 1)]);
    expect(system.text).toBe(
      '<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\n',
    );
  });

  it('learns answers and <|im_end|>, not the newline behind it', () => {
    const { segments } = renderer.renderTraining(messages, { trainOn: 'assistant' });
    expect(segments.map(({ kind, text, weight }) => [kind, kind === 'prompt' ? null : text, weight])).toEqual([
      ['prompt', null, 0],
      ['answer', 'a1', 1],
      ['end', '<|im_end|>', 1],
      ['prompt', null, 0],
      ['answer', 'a2', 1],
      ['end', '<|im_end|>', 1],
      ['prompt', null, 0],
    ]);
    expect(segments.at(-1)?.text).toBe('\n');
  });

  it('stops at <|im_end|>', () => {
    expect(renderer.stopTokenIds).toEqual([2]);
    expect(renderer.template.id).toBe('chat-template');
  });

  it('ends with the conversation where no answer is asked for', () => {
    expect(renderer.renderPrompt(messages.slice(0, 2), { addGenerationPrompt: false }).text).toMatch(
      /assistant\na1<\|im_end\|>\n$/,
    );
  });

  it('learns an empty answer as its end alone', () => {
    const empty: Message[] = [messages[0] as Message, { role: 'assistant', content: '' }];
    expect(learned(renderer, empty)).toBe('<|im_end|>');
  });
});

describe('a template that closes answers otherwise', () => {
  const plain =
    '{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}';

  it('without any token: EOS is the label behind each answer, and stands at the end', () => {
    const renderer = jinja(
      '{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}',
    );
    const { inputIds, labels } = renderer.renderTraining(messages, { trainOn: 'assistant' });
    expect(tiny.decode(inputIds)).toBe('user: q1\nassistant: a1\nuser: q2\nassistant: a2\n');
    expect(learned(renderer)).toBe('a1<|im_end|>a2<|im_end|>');
    expect(labels.at(-1)).toBe(2);
    expect(inputIds.at(-1)).toBe(tiny.encode('\n')[0]);
  });

  it('with a blank that belongs to the answer', () => {
    expect(learned(jinja(plain))).toBe(' a1<|im_end|> a2<|im_end|>');
    expect(jinja(plain).answerPrefix).toBe(' ');
    expect(createRenderer(tiny, null).answerPrefix).toBe('');
  });

  it('with a token of its own: it is learned, and stops generation', () => {
    const renderer = jinja(
      '{% for m in messages %}{{ m.role }}: {{ m.content }}<|endoftext|>\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}',
    );
    expect(learned(renderer)).toBe('a1<|endoftext|>a2<|endoftext|>');
    expect(renderer.stopTokenIds).toEqual([2, 0]);
  });

  it('at the end of a conversation only: inside it, EOS is the label at the token that opens the next turn', () => {
    const renderer = jinja(
      "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% if loop.last and m.role == 'assistant' %}<|im_end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    );
    expect(learned(renderer)).toBe('a1<|im_end|>a2<|im_end|>');
    expect(renderer.stopTokenIds).toEqual([2]);
    const { inputIds, labels } = renderer.renderTraining(messages, { trainOn: 'assistant' });
    expect(inputIds[labels.indexOf(2)]).toBe(1);
  });

  it('without a token, and with text of its own in the answer: the refusal says why', () => {
    const renderer = jinja(
      '{% for m in messages %}{{ m.role }}: {{ m.content | upper }}!\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}',
    );
    expect(() => learned(renderer)).toThrow(/the end of this answer cannot be told/);
  });
});

describe('generation blocks', () => {
  const source = `{%- for m in messages %}
    {%- if m.role == 'assistant' %}
<|im_start|>assistant
{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}

    {%- else %}
<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
<|im_start|>assistant
{% endif %}`;

  it('mark what is learned', () => {
    expect(learned(jinja(source))).toBe('a1<|im_end|>a2<|im_end|>');
  });

  it('leave the text as it is without them', () => {
    const without = source.replace('{% generation %}', '').replace('{% endgeneration %}\n', '\n');
    const text = (renderer: Renderer) => renderer.renderPrompt(messages, { addGenerationPrompt: false }).text;
    expect(text(jinja(source)).trim()).toBe(text(jinja(without)).trim());
  });

  it('take in the token that closes the answer right behind them', () => {
    expect(learned(jinja(source.replace('<|im_end|>{% endgeneration %}', '{% endgeneration %}<|im_end|>')))).toBe(
      'a1<|im_end|>a2<|im_end|>',
    );
  });

  it('must mark every answer', () => {
    const once = jinja(
      '{% for m in messages %}{{ m.role }}{% if loop.last %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}<|im_end|>{% endfor %}',
    );
    expect(() => learned(once)).toThrow(/marked 1 generation blocks for 2 assistant messages/);
  });
});

describe('a history that is written otherwise than the prompt was', () => {
  const forgetful = jinja(
    '{% for m in messages %}<|im_start|>{{ m.role }}{% if loop.last %} now{% endif %}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant now\n{% endif %}',
  );

  it('is refused for answers that would be learned behind it', () => {
    expect(() => learned(forgetful)).toThrow(expect.objectContaining({ code: 'PREFIX_MISMATCH', messageIndex: 1 }));
    expect(() => learned(forgetful)).toThrow(/behind a prompt that inference never shows; use train_on `last`/);
  });

  it('is refused for a last answer without advice that does not help', () => {
    const never = jinja(
      '{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\nnow: {% endif %}',
    );
    expect(() => learned(never, messages, 'last')).toThrow(/messages\[3\]: .*never shows; use one of the presets/);
  });

  const REASONING =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
  const thinking = messages.map(
    (message): Message =>
      message.role === 'user' ? message : { ...message, content: `<think>hm</think>${message.content}` },
  );

  const ANSWER = REASONING.slice(REASONING.indexOf('{% if m.role'), REASONING.indexOf('\n{% endfor'));
  const BLOCKS = REASONING.replace(
    ANSWER,
    `{% if m.role == 'assistant' %}{% generation %}${ANSWER}{% endgeneration %}{% else %}${ANSWER}{% endif %}`,
  );

  it.each([
    ['without generation blocks', REASONING],
    ['with generation blocks', BLOCKS],
  ])('is refused where it drops reasoning from answers that would be learned, %s', (_, source) => {
    const renderer = jinja(source);
    expect(() => learned(renderer, thinking)).toThrow(
      /messages\[1\]: .*writes this answer otherwise once another turn follows .*use train_on `last`, give this message weight 0/,
    );
    expect(learned(renderer, thinking, 'last')).toBe('<think>hm</think>a2<|im_end|>');
    expect(learned(renderer, thinking.slice(0, 2))).toBe('<think>hm</think>a1<|im_end|>');
    // Answers without reasoning are written alike everywhere.
    expect(learned(renderer)).toBe('a1<|im_end|>a2<|im_end|>');
  });

  it('is no obstacle to learning every position', () => {
    expect(learned(forgetful, messages, 'all')).toContain('q1');
  });
});

it('a block that opens inside the prompt learns what inference has to write', () => {
  const source =
    "{% for m in messages %}<|im_start|>{% if m.role == 'assistant' %}{% generation %}assistant\n{{ m.content }}<|im_end|>{% endgeneration %}{% else %}user\n{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
  expect(learned(jinja(source))).toBe('a1<|im_end|>a2<|im_end|>');
});

it('a block that opens behind the prompt leaves the tokens of the prompt as inference has them', () => {
  const source =
    "{% for m in messages %}{% if m.role == 'assistant' %}hel{% generation %}lo{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}{% if add_generation_prompt %}he{% endif %}";
  const renderer = jinja(source);
  const { inputIds } = renderer.renderTraining(messages, { trainOn: 'assistant' });
  for (const turn of [1, 3]) {
    const prompt = renderer.renderPrompt(messages.slice(0, turn)).inputIds;
    expect([...inputIds.subarray(0, prompt.length)]).toEqual([...prompt]);
  }
});

describe("Qwen 3's template", async () => {
  const qwen3 = await loadTokenizer({ kind: 'huggingface', folder: packagedFolder('qwen3') });
  const renderer = createRenderer(qwen3, null);

  it('learns the empty reasoning that it writes before a last answer, as generation would', () => {
    const list = messages.slice(0, 2);
    expect(learned(renderer, list, 'assistant', qwen3)).toBe('<think>\n\n</think>\n\na1<|im_end|>');
  });

  it('is refused for answers before the last one, whose reasoning it drops', () => {
    expect(() => learned(renderer, messages, 'assistant', qwen3)).toThrow(
      expect.objectContaining({ code: 'PREFIX_MISMATCH', messageIndex: 1 }),
    );
    expect(learned(renderer, messages, 'last', qwen3)).toBe('<think>\n\n</think>\n\na2<|im_end|>');
  });

  it('takes reasoning out of the text of an answer, as transformers does', () => {
    const list: Message[] = [messages[0] as Message, { role: 'assistant', content: '<think>\nhm\n</think>\n\na1' }];
    const { inputIds } = renderer.renderTraining(list, { trainOn: 'assistant' });
    expect([...inputIds]).toContain(qwen3.pieceToId('<think>'));
    expect(learned(renderer, list, 'assistant', qwen3)).toBe('<think>\nhm\n</think>\n\na1<|im_end|>');
  });
});

describe('a template that fails', () => {
  it('says that it does not parse', () => {
    expect(() => jinja('{% for m in messages %}')).toThrow(/not valid Jinja/);
  });

  it('hands on its own refusal', () => {
    const renderer = jinja(
      "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{{ m.content }}<|im_end|>{% endfor %}",
    );
    const prompt = () => renderer.renderPrompt([{ role: 'system', content: 's' }]);
    expect(prompt).toThrow(/refused the messages: System role not supported/);
    expect(prompt).toThrow(expect.objectContaining({ code: 'TEMPLATE_FAILED' }));
  });
});
