-- The last chunk and frames of a terminal task's stream; see nocturne.genkit_output().
-- No row: it has not ended.
-- $1 uuid task  $2 text tenant
select kind, turn_end, paused, result, error from nocturne.genkit_output($1::uuid, $2::text);
