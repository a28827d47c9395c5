-- For `nocturne doctor`: turns in quarantine that nobody has let go. Returns how many (up to 1000)
-- and the newest.
select count(*), max(x.task_id::text)
from (select d.task_id from nocturne.done d
      where d.error ->> 'code' = 'QUARANTINED'
        and not exists (select 1 from nocturne.retry r where r.task_id = d.task_id)
      order by d.task_id desc limit 1000) x;
