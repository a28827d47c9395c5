-- Hints from the other processes: 'r' something is ready, 'c:TASK,TASK,...' events, 'd:TASK,...'
-- terminal, 'a:WORKER' a control for a turn of that worker, 'w?:TASK:API' does any other api have readers of
-- a Genkit turn, 'w!:TASK:API' this one does.
listen nocturne;
