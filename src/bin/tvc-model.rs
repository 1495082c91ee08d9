use gsttvc::model::*; use tch::*;
fn main(){ let _g=tch::no_grad_guard(); 
 for kind in [Kind::Float, Kind::BFloat16] {
 let mut vs=nn::VarStore::new(Device::Cpu); let t=Tokenizer::new(vs.root(),&TokenizerConfig::small());
 println!("params {}", vs.trainable_variables().iter().map(|v|v.numel()).sum::<usize>());
 for (k,v) in vs.variables() { if k.ends_with("weight") && (k.contains("conv_out")) {println!("{k} {:?}",v.size());}}
 if kind==Kind::BFloat16 {vs.bfloat16();}
 let x=Tensor::rand([1,8,6,184,320],(Kind::Float,Device::Cpu)); let (mut e,mut d)=(StreamState::default(),StreamState::default());
 let z=t.encode(&x.narrow(1,0,1),kind,&mut e).unwrap(); t.decode(&z.clamp(-1,1),1,kind,&mut d).unwrap();
 for _ in 0..3 {
 let s=std::time::Instant::now(); let mut z=z.copy(); for _ in 0..4 { z=t.encode(&x,kind,&mut e).unwrap(); } let a=s.elapsed();
 let s=std::time::Instant::now(); for _ in 0..4 { t.decode(&z.clamp(-1,1),1,kind,&mut d).unwrap(); } let b=s.elapsed();
 println!("{kind:?} enc {:.1} fps dec {:.1} fps", 32.0/a.as_secs_f64(), 32.0/b.as_secs_f64());}
 } }
