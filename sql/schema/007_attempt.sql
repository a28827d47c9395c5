-- An attempt that was the only one stands in done: its row would say the same once more.

alter table nocturne.done
    add column worker text; -- of that attempt; null: never ran, or it has a row of attempt
