module rocmforge

go 1.19
