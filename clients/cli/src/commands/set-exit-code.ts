/** Tells the program what it ends with, where a command that did its work has more to say than 0. */
export type SetExitCode = (code: number) => void;
