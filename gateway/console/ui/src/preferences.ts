/** What a person prefers, kept in this browser. Nothing of what was looked at is kept. */

export interface Preferences {
  theme: 'auto' | 'light' | 'dark';
  exact: boolean;
  refresh: boolean;
}

const NAME = 'usage-analytics-console';
const USUAL: Preferences = { theme: 'auto', exact: false, refresh: false };

export function readPreferences(): Preferences {
  try {
    const found = JSON.parse(localStorage.getItem(NAME) ?? '{}') as Partial<Preferences>;
    return {
      theme: found.theme === 'light' || found.theme === 'dark' ? found.theme : 'auto',
      exact: found.exact === true,
      refresh: found.refresh === true,
    };
  } catch {
    return USUAL; // a browser that keeps nothing
  }
}

export function writePreferences(preferences: Preferences): void {
  try {
    localStorage.setItem(NAME, JSON.stringify(preferences));
  } catch {
    // A browser that keeps nothing.
  }
}
