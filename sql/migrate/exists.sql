-- One row when there has ever been a migration here.
select 1 where to_regclass('nocturne.migration') is not null;
