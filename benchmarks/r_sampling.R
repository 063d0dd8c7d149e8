# Time draws of a function of the package `sampling`: Rscript r_sampling.R FILE N FUNCTION SECONDS
# FILE holds N doubles. Prints the processor seconds of one draw, the number of draws, and the mean size of the samples.
suppressMessages(library(sampling))
words <- commandArgs(trailingOnly = TRUE)
pik <- readBin(words[1], "double", n = as.integer(words[2]))
draw <- get(words[3], envir = asNamespace("sampling"))
budget <- as.numeric(words[4])
processor <- function() sum(proc.time()[c("user.self", "sys.self")])

for (i in 1:3) draw(pik)  # R compiles a function in its first two calls
invisible(gc())
draws <- 0
sizes <- 0
seconds <- 0
while (seconds < budget || draws < 3) {
  start <- processor()
  for (i in 1:10) sample <- draw(pik)
  seconds <- seconds + processor() - start
  sizes <- sizes + sum(sample)
  draws <- draws + 10
}
cat(seconds / draws, draws, sizes / (draws / 10), "\n")
