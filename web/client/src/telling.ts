/** Telling an application what happens, whose handlers may fail. */

import { ObservableV2 } from "lib0/observable";

/** Call what is the application's: its error is its own, and ends nothing of ours. */
export function attempt(call: () => void): void {
  try {
    call();
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}

/** Tells each handler, also behind one that fails. */
export class Teller<
  Events extends { [Name in keyof Events]: (...args: any[]) => void },
> extends ObservableV2<Events> {
  override emit<Name extends string & keyof Events>(
    name: Name,
    args: Parameters<Events[Name]>,
  ): void {
    for (const handler of [...(this._observers.get(name) ?? [])]) {
      attempt(() => handler(...args));
    }
  }
}
