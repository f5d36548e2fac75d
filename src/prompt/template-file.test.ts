import { describe, expect, it } from 'vitest';
import { tinyTokenizer } from '../../test/fixtures/tokenizers.ts';
import { createRenderer } from './create-renderer.ts';
import { MAX_TEMPLATE_FILE } from './definition.ts';
import { parseTemplateFile } from './template-file.ts';

const YAML = `
id: house-style
version: "3"
# Comments are welcome.
system: "{content}\\n"
user: "Q{n}: {content}\\nA:"
assistant: " {content}"
separator: "\\n"
firstRound: 0
stop: ["\\nQ"]
`;

describe('a template file', () => {
  it('may be YAML or JSON', () => {
    const file = parseTemplateFile(YAML);
    expect(file).toMatchObject({ id: 'house-style', version: '3', definition: { kind: 'turns', bos: 'tokenizer' } });
    const json = JSON.stringify({ id: 'house-style', version: '3', user: '{content}' });
    expect(parseTemplateFile(json)).toMatchObject({ id: 'house-style', definition: { user: '{content}', end: null } });
  });

  it('renders', () => {
    const renderer = createRenderer(tinyTokenizer(), YAML);
    const { text } = renderer.renderPrompt([
      { role: 'system', content: 's' },
      { role: 'user', content: 'a {n} {{' },
      { role: 'assistant', content: '{content}' },
      { role: 'user', content: 'b' },
    ]);
    expect(text).toBe('s\nQ0: a {n} {{\nA: {content}\nQ1: b\nA:');
    expect(renderer.template).toMatchObject({ id: 'house-style', version: '3' });
    expect(renderer.stopStrings).toEqual(['\nQ']);
  });

  it('writes braces as {{ and }}', () => {
    const renderer = createRenderer(tinyTokenizer(), '{"id": "json", "user": "{{\\"q\\": \\"{content}\\"}}"}');
    expect(renderer.renderPrompt([{ role: 'user', content: 'x' }]).text).toBe('{"q": "x"}');
  });

  it.each([
    ['text that is neither', 'id: [', /neither YAML nor JSON/],
    ['a list', '- a\n- b', /expected names and values, found a list of 2/],
    ['nothing', ' ', /expected names and values, found null/],
    ['no id', '{"user": "{content}"}', /id: expected an id, found nothing/],
    ['an id of other characters', '{"id": "A b", "user": "{content}"}', /id: expected an id of a-z.*found "A b"/],
    ['no user', 'id: a', /user: expected a text, found nothing/],
    ['an unknown member', 'id: a\nuser: "{content}"\nuzer: x', /uzer: not known; expected id, version/],
    ['no content', 'id: a\nuser: "x"', /user: expected \{content\} once, found it 0 times/],
    ['content twice', 'id: a\nuser: "{content}{content}"', /user: expected \{content\} once, found it 2 times/],
    [
      'an unknown placeholder',
      'id: a\nuser: "{query}"',
      /user: \{query\} is no placeholder here; expected one of \{content\}, \{n\}/,
    ],
    [
      'a placeholder in the wrong place',
      'id: a\nuser: "{content}"\nassistant: "{n}{content}"',
      /assistant: \{n\} is no placeholder/,
    ],
    ['a single brace', 'id: a\nuser: "{content} }"', /user: found a single \}; write \}\} for a brace/],
    [
      'text in the answer',
      'id: a\nuser: "{content}"\nassistant: "A: {content}"',
      /assistant: expected no more than whitespace/,
    ],
    [
      'a default system message without its place',
      'id: a\nuser: "{content}"\ndefaultSystem: s',
      /defaultSystem: expected only with system/,
    ],
    [
      'a place for a system message that has no text',
      'id: a\nuser: "{system}{content}"',
      /user: \{system\} is expected only with system/,
    ],
    [
      'a token that is not used',
      'id: a\nuser: "{content}"\ntokens: ["<x>"]',
      /tokens\[0\]: "<x>" occurs in none of the texts/,
    ],
    [
      'an id of a token that is not named',
      'id: a\nuser: "{content}"\ntokenIds: { x: 1 }',
      /tokenIds.x: expected only tokens that tokens names/,
    ],
    [
      'an id that is none',
      'id: a\nuser: "x{content}"\ntokens: [x]\ntokenIds: { x: y }',
      /tokenIds.x: expected an id, found "y"/,
    ],
    ['an empty end', 'id: a\nuser: "{content}"\nend: ""', /end: expected a control token, or null, found ""/],
    [
      'a round that is no number',
      'id: a\nuser: "{content}"\nfirstRound: one',
      /firstRound: expected a whole number, found "one"/,
    ],
    [
      'another kind of BOS rule',
      'id: a\nuser: "{content}"\nbos: sometimes',
      /bos: expected always, tokenizer or never, found "sometimes"/,
    ],
    ['too long a text', ' '.repeat(MAX_TEMPLATE_FILE + 1), /expected at most 16384 characters, found 16385/],
  ])('with %s is refused', (_, text, message) => {
    expect(() => parseTemplateFile(text)).toThrow(message);
    expect(() => parseTemplateFile(text)).toThrow(expect.objectContaining({ code: 'INVALID_TEMPLATE' }));
  });

  it('names every fault at once', () => {
    expect(() => parseTemplateFile('id: A\nuser: 3\nstop: x')).toThrow(
      /id: .*; user: expected a text, found 3; stop: /,
    );
  });

  it('of hostile nesting, or with faults without end, gets a short answer', { timeout: 60_000 }, () => {
    for (const text of ['['.repeat(16_000), '{a: '.repeat(4000), 'user: "{'.repeat(1000)]) {
      expect(() => parseTemplateFile(text)).toThrow(/^.{0,400}$/u);
    }
    const members = Array.from({ length: 900 }, (_, index) => `k${index}: x`).join('\n');
    expect(() => parseTemplateFile(members)).toThrow(/^.{0,2000}$/u);
    const tokens = Array.from({ length: 60 }, (_, index) => `token${index}`).join();
    expect(() => parseTemplateFile(`id: a\nuser: "{content}"\ntokens: [${tokens}]`)).toThrow(/; and 50 more$/);
  });

  it('cannot pass for a preset', () => {
    const tutorial = (members: string) => () =>
      createRenderer(tinyTokenizer(), `id: tutorial\nuser: "{content}"\n${members}`);
    expect(tutorial('')).toThrow(/version 1 of tutorial is a preset, and it reads otherwise; choose another id/);
    // What an adapter of another release carries.
    expect(tutorial('version: "0"')().template).toMatchObject({ id: 'tutorial', version: '0' });
    expect(() => createRenderer(tinyTokenizer(), 'id: chat-template\nuser: "{content}"')).toThrow(/choose another/);
  });

  it('of many aliases is no bomb', () => {
    const levels = Array.from({ length: 9 }, (_, level) => `l${level}: &l${level} [${`*l${level - 1},`.repeat(9)}]`);
    levels[0] = 'l0: &l0 [x,x,x,x,x,x,x,x,x]';
    expect(() => parseTemplateFile(levels.join('\n'))).toThrow(expect.objectContaining({ code: 'INVALID_TEMPLATE' }));
  });
});
