import { expect, test } from 'vitest';
import { JobState, TrainingEvent, TrainingJob } from '../../../typescript/src/index.ts';
import { reportPage } from './report-page.ts';
import { svgCurve } from './svg-curve.ts';

const HOSTILE = `</style></svg><script>alert(1)</script>"'&<img src=x onerror=alert(1)>`;

const STEPS = [4, 3, Number.NaN, 2.5];

/** A job whose every text is `word`. */
function page(word: string): string {
  const job = TrainingJob.fromPartial({
    name: word,
    state: JobState.JOB_STATE_FAILED,
    adapter: word,
    failure: { reason: word, message: word },
    lastStep: { globalStep: 4 },
    spec: {
      model: word,
      dataset: word,
      template: word,
      output: word,
      lora: { r: 8, targetModules: [word], rankPattern: { [word]: 4 } },
      learningRate: 1e-4,
    },
  });
  const memory = { totalBytes: 3 * 2 ** 30, layers: 30, recomputeLayers: 4 };
  const events: TrainingEvent['event'][] = [
    { $case: 'warning', value: { reason: word, message: word } },
    TrainingEvent.fromPartial({
      event: {
        $case: 'plan',
        value: {
          examples: 17,
          evalExamples: 5,
          targetModules: [word],
          baseModelHash: word,
          template: { id: word, version: word, hash: word },
          memory,
        },
      },
    }).event,
    ...STEPS.map((loss, index) => {
      const value = { globalStep: index + 1, maxSteps: 9, loss, gradNorm: 1, learningRate: 1e-4, tokens: 100 };
      return TrainingEvent.fromPartial({
        event: { $case: 'step', value: { ...value, tokensPerSecond: 50, skippedSteps: index > 1 ? 1 : 0 } },
      }).event;
    }),
    TrainingEvent.fromPartial({
      event: { $case: 'evaluation', value: { globalStep: 4, loss: 2.125, trainerLoss: 2.25, examples: 5, best: true } },
    }).event,
  ];
  return reportPage(
    job,
    events.map((event, index) => ({ sequence: index + 1, time: undefined, job: word, event })),
  );
}

const unescaped = (html: string): string =>
  html
    .replace(/<style>.*?<\/style>/s, '')
    .replace(/<[^>]*>/g, '')
    .replace(/&lt;/g, '<')
    .replace(/&gt;/g, '>')
    .replace(/&quot;/g, '"')
    .replace(/&#39;/g, "'")
    .replace(/&amp;/g, '&');

test('hostile names are shown, and add no element, attribute or resource, wherever they stand', () => {
  const harmless = page('plain');
  const hostile = page(HOSTILE);
  const tags = (html: string): string[] => [...html.matchAll(/<\/?[a-z][a-z0-9]*/g)].map(([tag]) => tag);
  expect(tags(hostile)).toEqual(tags(harmless));
  // Lists stand in the page as JSON, whose quotes are escaped once more.
  const inLists = JSON.stringify(HOSTILE).slice(1, -1);
  const count = (html: string, word: string): number => unescaped(html).split(word).length - 1;
  expect(count(hostile, HOSTILE) + count(hostile, inLists)).toBe(count(harmless, 'plain'));
  for (const [tag] of hostile.replace(/<style>.*?<\/style>/s, '').matchAll(/<[a-z][^>]*>/g)) {
    expect(tag).toMatch(/^<[a-z0-9]+(?: [a-zA-Z-]+="[^"<>]*")*\/?>$/);
    expect(tag.replace(/="[^"]*"/g, '=')).not.toMatch(/ (?:on\w+|src|href|style)=/);
  }
  expect(hostile).toContain(`content="default-src 'none'; style-src 'unsafe-inline'"`);
  expect(harmless).not.toMatch(/<script|<link|<img|@import|url\(|https?:/);
});

test('what a report tells', () => {
  const html = page('plain');
  const text = unescaped(html).replaceAll(/\s+/g, ' ');
  for (const part of [
    'plain: failed',
    'plain (plain)',
    '17, and 5 held out',
    '4 of 9, 0.00 epochs',
    '400, 50 per second',
    '3.0 GiB',
    '4 of 30',
    'lora.r',
    'learningRate',
    '2.1250',
    '2.2500',
    'the best until then',
  ]) {
    expect(text).toContain(part);
  }
  // Nothing was said of it.
  expect(text).not.toContain('evalDataset');
  expect(html.match(/<svg /g)).toHaveLength(4);
  expect(html.match(/<circle /g)).toHaveLength(1);
});

test('a job without steps has a page without curves', () => {
  const html = reportPage(TrainingJob.create({ name: 'trainingJobs/a', state: JobState.JOB_STATE_QUEUED }), []);
  expect(html).toContain('trainingJobs/a: queued');
  expect(html).not.toMatch(/<svg|NaN|undefined|Infinity/);
});

const points = (values: readonly number[]) => values.map((value, index) => ({ step: index + 1, value }));

test('a curve has gaps where values are not finite, stays in its frame, and keeps peaks however many points there are', () => {
  const path = (svg: string): string => /class="line" d="([^"]*)"/.exec(svg)?.[1] ?? '';
  expect(path(svgCurve('a', points(STEPS)))).toMatch(/^M64\.0 12\.0L[\d. ]+M704\.0 192\.0$/);
  expect(svgCurve('a', points([Number.NaN, Number.POSITIVE_INFINITY]))).toBe('');
  expect(path(svgCurve('a', points([7])))).toBe('M64.0 102.0');
  const many = Array.from({ length: 100_000 }, () => 1);
  many[54_321] = 9;
  const svg = svgCurve('a', points(many));
  expect(svg.length).toBeLessThan(20_000);
  expect(path(svg)).toContain(' 12.0');
  for (const [, x = '', y = ''] of path(svg).matchAll(/[ML]([\d.]+) ([\d.]+)/g)) {
    expect(Number(x)).toBeGreaterThanOrEqual(64);
    expect(Number(x)).toBeLessThanOrEqual(704);
    expect(Number(y)).toBeLessThanOrEqual(192);
  }
});
