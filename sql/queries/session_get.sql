-- A session as JSON text. No row: there is none.
-- $1 text tenant  $2 text session_id
select '{"session_id":' || to_json(s.session_id) || ',"agent":' || to_json(s.agent)
       || nocturne.member('head', s.head::text) || nocturne.member('running', s.running::text)
       || ',"queue":' || to_json(s.queue)
       || ',"created_at":"' || nocturne.stamp(s.created_at)
       || '","updated_at":"' || nocturne.stamp(s.updated_at) || '"}'
from nocturne.session s where s.tenant = $1::text and s.session_id = $2::text;
