-- Is the database there, and which schema does it have?
select max(version) from nocturne.migration;
