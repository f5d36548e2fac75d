import fc from 'fast-check';
import { expect, it } from 'vitest';
import { StopStringMatcher } from './stop-strings.ts';

function run(stops: readonly string[], chunks: readonly string[]): { text: string; matched: string | null } {
  const matcher = new StopStringMatcher(stops);
  let text = '';
  for (const chunk of chunks) {
    const match = matcher.push(chunk);
    text += match.text;
    if (match.matched !== null) return { text, matched: match.matched };
  }
  return { text: text + matcher.flush(), matched: null };
}

it('finds a stop string across chunk borders and gives none of it out', () => {
  expect(run(['\n\nHuman:'], ['Yes.\n', '\nHu', 'man', ': more'])).toEqual({ text: 'Yes.', matched: '\n\nHuman:' });
});

it('gives held text out when the stop string does not complete', () => {
  const matcher = new StopStringMatcher(['END']);
  expect(matcher.push('the EN').text).toBe('the ');
  expect(matcher.push('ergy').text).toBe('ENergy');
  expect(matcher.push(' E').text).toBe(' ');
  expect(matcher.flush()).toBe('E');
});

it('reports the stop string that is complete first', () => {
  expect(run(['abcd', 'bc'], ['xabcd'])).toEqual({ text: 'xa', matched: 'bc' });
  expect(run(['bc', 'abc'], ['xabc'])).toEqual({ text: 'x', matched: 'abc' });
});

it('gives nothing more after a match', () => {
  const matcher = new StopStringMatcher(['.']);
  expect(matcher.push('a.b')).toEqual({ text: 'a', matched: '.' });
  expect(matcher.push('c')).toEqual({ text: '', matched: '.' });
  expect(matcher.flush()).toBe('');
});

it('refuses an empty stop string', () => {
  expect(() => new StopStringMatcher(['a', ''])).toThrow(/at least one character/);
});

it('does not depend on chunks, and never gives out a stop string', () => {
  const letters = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 30 });
  const stops = fc.array(fc.string({ unit: fc.constantFrom('a', 'b', 'c'), minLength: 1, maxLength: 4 }), {
    maxLength: 4,
  });
  fc.assert(
    fc.property(letters, stops, fc.array(fc.nat({ max: 30 })), (text, list, cuts) => {
      const borders = [0, ...cuts.filter((cut) => cut < text.length).sort((a, b) => a - b), text.length];
      const chunks = borders.slice(1).map((border, index) => text.slice(borders[index], border));
      const result = run(list, chunks);
      expect(result).toEqual(run(list, [...text]));
      expect(list.some((stop) => result.text.includes(stop))).toBe(false);
      if (result.matched === null) expect(result.text).toBe(text);
      else expect(text.startsWith(result.text + result.matched)).toBe(true);
    }),
    { numRuns: 500 },
  );
});
