//! `sallyport-gateway`

use sallyport_ops::Exit;

fn main() -> Exit {
    sallyport_gateway::cli::main()
}
