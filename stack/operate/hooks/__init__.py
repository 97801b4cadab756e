"""`./headrace hooks`: adds, lists, pauses, replays, rotates and removes webhooks. event_relay sends to them."""
