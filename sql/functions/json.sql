-- JSON as text: what the views are made of.

-- RFC 3339, UTC, milliseconds.
create or replace function nocturne.stamp(at timestamptz) returns text language sql stable as $$
    select to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$;

-- ',"key":value', or nothing when the value is null: JSON objects without null members.
create or replace function nocturne.member(key text, value json) returns text language sql immutable as $$
    select coalesce(',"' || key || '":' || value::text, '')
$$;
create or replace function nocturne.member(key text, value text) returns text language sql immutable as $$
    select coalesce(',"' || key || '":' || to_json(value)::text, '')
$$;
