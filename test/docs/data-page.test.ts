import { expect, test } from 'vitest';
import { dataPage } from './preset-pages.ts';

test('docs/data.md shows the presets as they are', () => {
  const { now, fresh } = dataPage();
  expect(now, 'docs/data.md is out of date; run: node test/docs/preset-pages.ts').toBe(fresh);
});
