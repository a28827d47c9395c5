-- Has there ever been a migration here, have functions?
select to_regclass('nocturne.migration') is not null, to_regclass('nocturne.functions') is not null;
