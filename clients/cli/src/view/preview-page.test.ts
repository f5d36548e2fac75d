import { expect, test } from 'vitest';
import { PreviewExamplesResponse } from '../../../typescript/src/index.ts';
import { previewPage } from './preview-page.ts';

const HOSTILE = `</pre><script>alert(1)</script>"'&<img src=x onerror=alert(1)>`;

const page = (tokens: object[], source = 'data.jsonl', model = 'models/m') =>
  previewPage(
    PreviewExamplesResponse.fromPartial({
      examples: [{ index: 3, labelTokens: 2, tokens }],
      template: { id: 'chatml', version: '1', hash: 'h' },
    }),
    source,
    model,
  );

/** The texts between tags, joined: what a reader sees. */
const textOf = (html: string): string =>
  html
    .replace(/<style>.*?<\/style>/s, '')
    .replace(/<[^>]*>/g, '')
    .replace(/&lt;/g, '<')
    .replace(/&gt;/g, '>')
    .replace(/&quot;/g, '"')
    .replace(/&#39;/g, "'")
    .replace(/&amp;/g, '&');

/** Names of the elements, each once, sorted. */
const elements = (html: string): string[] => [
  ...new Set([...html.matchAll(/<([a-z][a-z0-9]*)/g)].map((match) => match[1] ?? '')),
];

test('hostile text is shown, and adds no element, attribute or resource, wherever it stands', () => {
  const harmless = page([{ id: 1, text: 'a', piece: 'a', label: 1, segment: 'answer' }]);
  const hostile = page([{ id: 1, text: HOSTILE, piece: HOSTILE, label: 1, segment: HOSTILE }], HOSTILE, HOSTILE);
  expect(elements(hostile).sort()).toEqual(elements(harmless).sort());
  expect(hostile.match(/<[a-z]/g)?.length).toBe(harmless.match(/<[a-z]/g)?.length);
  // The title has source and model, the body those two and the token.
  expect(textOf(hostile).split(HOSTILE).length - 1).toBe(5);
  // Every tag has quoted attributes only, and none of them is an event or an address.
  for (const [tag] of hostile.replace(/<style>.*?<\/style>/s, '').matchAll(/<[a-z][^>]*>/g)) {
    expect(tag).toMatch(/^<[a-z0-9]+(?: [a-z-]+="[^"<>]*")*>$/);
    expect(tag.replace(/="[^"]*"/g, '=')).not.toMatch(/ (?:on\w+|src|href|style)=/);
  }
  for (const html of [harmless, hostile]) {
    expect(html.replaceAll(/title="[^"]*"/g, '')).not.toMatch(/<script|<link|<img|@import|url\(/);
    expect(html).toContain(`content="default-src 'none'; style-src 'unsafe-inline'"`);
  }
});

test('each token tells its id, piece, label, segment and characters', () => {
  const token = { id: 7, text: ' <b>', piece: 'Ġ<b>', label: -100, segment: 'prompt', start: 4, end: 8 };
  expect(page([token])).toContain(
    `title="id 7\npiece &quot;Ġ&lt;b&gt;&quot;\nlabel -100 (not learned)\nsegment prompt\ncharacters 4 to 8"> &lt;b&gt;</span>`,
  );
});

test('learned stretches are marked as one, without colour, too; a label that is not the token is told', () => {
  const html = page([
    { id: 1, text: 'q', label: -100 },
    { id: 2, text: 'a', label: 2 },
    { id: 3, text: 'b', label: 9 },
    { id: 4, text: 'z', label: -100 },
    { id: 5, text: 'c', label: 5 },
  ]);
  const pre = /<pre>.*<\/pre>/s.exec(html)?.[0] ?? '';
  expect(pre.replace(/ title="[^"]*"/g, '').replaceAll(' class="token"', '')).toBe(
    '<pre><span>q</span><mark><span>a</span><span>b<sub>⟨9⟩</sub></span></mark><span>z</span><mark><span>c</span></mark></pre>',
  );
  expect(html).toMatch(/mark::before \{ content: "⟦"; \}/);
  expect(html).toMatch(/mark span\.token \{[^}]*underline/);
  expect(html).toContain('Example 3: 2 of 5 tokens are learned');
});

test('control characters and those that turn text around are shown as signs', () => {
  const html = page([{ id: 1, text: 'a\u001b[31m\u202eb\n\tc', piece: '\u202e\n', label: 1 }]);
  expect(html).toContain('>a·[31m‹U+202E›b⏎\n→c</span>');
  expect(html).toContain('piece &quot;‹U+202E›\\n&quot;');
  // biome-ignore lint/suspicious/noControlCharactersInRegex: none of them may be left
  expect(html).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u202e]/);
});
