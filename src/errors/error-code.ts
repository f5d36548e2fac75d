/** The code of a system's error, such as `ENOENT`; empty for any other. */
export const codeOf = (error: unknown): string => (error as NodeJS.ErrnoException).code ?? '';
