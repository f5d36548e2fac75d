/** Room that the addon's encoders write ids into: a list of its own for each text would cost more than most texts. */
export class IdRoom {
  readonly #room = new Uint32Array(2 ** 16);

  /**
   * Appends the ids of a text.
   * @param encode Returns how many ids there are, which stand in `room` where all of them fit.
   */
  append(ids: number[], encode: (room: Uint32Array) => number): void {
    let room = this.#room;
    const count = encode(room);
    if (count > room.length) {
      room = new Uint32Array(count);
      encode(room);
    }
    for (let index = 0; index < count; index++) ids.push(room[index] as number);
  }
}
