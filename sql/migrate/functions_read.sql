-- Whose functions are here: as ours, older ones, or those of a newer program?
-- $1 int[] version of this program  $2 text checksum of its functions
select checksum = $2::text and program = $1::int[] as same, program > $1::int[] as newer,
       array_to_string(program, '.') as program
from nocturne.functions;
