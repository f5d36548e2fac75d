import { expect, it } from 'vitest';
import { EngineError } from './errors.ts';
import type { Addon } from './native-addon.ts';
import { nativeEncoders } from './native-encoders.ts';

const refuse = (): Addon => {
  throw new EngineError('INTERNAL', 'not built');
};
const older = {} as Addon;
const current = { NativeByteLevelEncoder: class {} } as unknown as Addon;

it('takes the first build that has encoders', () => {
  expect(nativeEncoders({ cpu: () => current, cuda: refuse })).toBe(current);
  expect(nativeEncoders({ cpu: refuse, cuda: () => current })).toBe(current);
  expect(nativeEncoders({ cpu: () => older, cuda: refuse })).toBeNull();
});

it('does not hide other failures', () => {
  const fail = () => {
    throw new TypeError('broken');
  };
  expect(() => nativeEncoders({ cpu: fail, cuda: refuse })).toThrow('broken');
});
