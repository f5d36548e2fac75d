import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['src/**/*.test.ts', 'clients/**/*.test.ts', 'demo/**/*.test.ts', 'test/**/*.test.ts'],
  },
});
